"""The error tree. Every error says in one line what is wrong and where, and hints what to do.

* TrimtabError                  our fault unless a branch says otherwise (exit code 1)
  + UserError                   the user can mend it (exit code 2)
    - ProjectError              the project file
    - DataError                 a source, a record, a template
    - BaseError                 a base model that cannot be had or is not what it claims
    - NotFound                  a name or hash that nobody knows
    - InUse                     a port, a project or a home that somebody else holds
    - RunFailed                 a loss that cannot be trusted, or a step that never ends
    - StorageFull               no room on the device
    - StoreClosed               a database whose place cannot be opened, or is something else
  + Preempted                   told to end while it worked; what was done is saved (exit 130)
  + IdentityError               what was loaded is not what was registered
  + RankLost                    a process of a training ended, and with it the others
  + StoreError                  the database or the blob store
    - StoreRefused              the database takes these rows never, whoever asks when
    - StoreConflict             another transaction was in the way; the same may work at once
  + EngineError
    - EngineUnavailable         the engine process is gone or cannot be reached; retrying may help
    - EngineOverloaded          the queue is full; retrying later helps
    - VersionNotLoaded          the engine does not hold this version
    - RequestRefused            this request can never work
  + LedgerError
    - BudgetExceeded            the hold would pass the limit
    - PriceMissing              a version that nobody set a price for
    - HoldClosed                the hold of work that took too long was settled meanwhile
"""


class TrimtabError(Exception):
    """Root of the tree. `hint` tells the reader what to do next; it may be empty."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UserError(TrimtabError):
    exit_code = 2


class ProjectError(UserError):
    pass


class DataError(UserError):
    pass


class BaseError(UserError):
    pass


class NotFound(UserError):
    pass


class InUse(UserError):
    pass


class RunFailed(UserError):
    pass


class StorageFull(UserError):
    pass


class StoreClosed(UserError):
    pass


class Preempted(TrimtabError):
    exit_code = 130


class IdentityError(TrimtabError):
    pass


class RankLost(TrimtabError):
    pass


class StoreError(TrimtabError):
    pass


class StoreRefused(StoreError):
    pass


class StoreConflict(StoreError):
    pass


class EngineError(TrimtabError):
    pass


class EngineUnavailable(EngineError):
    pass


class EngineOverloaded(EngineError):
    """`retry_s` is when the queue is expected to have room again."""

    def __init__(self, message: str, *, hint: str = "", retry_s: float = 1.0) -> None:
        super().__init__(message, hint=hint)
        self.retry_s = retry_s


class VersionNotLoaded(EngineError):
    pass


class RequestRefused(EngineError):
    pass


class LedgerError(TrimtabError):
    pass


class BudgetExceeded(LedgerError):
    pass


class PriceMissing(LedgerError):
    pass


class HoldClosed(LedgerError):
    pass
