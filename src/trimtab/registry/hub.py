"""Where the Hugging Face Hub keeps a file of a repository, and what its client says meanwhile."""

import logging

from trimtab.errors import BaseError


def hub_url(repo: str, revision: str, name: str) -> str:
    """The address of one file at one commit, by the Hub client's own rules (HF_ENDPOINT holds)."""
    try:
        from huggingface_hub import hf_hub_url
    except ModuleNotFoundError:
        raise BaseError(
            f"{repo}: the Hub's client is not installed", hint="pip install 'trimtab[train]'"
        ) from None
    return hf_hub_url(repo, name, revision=revision)


def quieten() -> None:
    """The Hub's client, once it is imported, tells of no try that failed: after the last one comes
    an error, in one line of ours.
    """
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
