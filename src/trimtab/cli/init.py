"""`trimtab init`: write a commented project file."""

from pathlib import Path

import click

from trimtab.cli.options import verbose_option

TEMPLATE = """\
# A Trimtab project: one declared loop. Every field but name, base and data.sources has a default.
name: {name}
base: smollm2-135m-instruct-q4   # a catalogue name, a Hugging Face Hub id or a folder

data:
  sources:                       # JSONL, JSON or CSV beside this file; the format is detected
    - {{path: records.jsonl}}      # or {{hub: tatsu-lab/alpaca, split: "train[:1%]"}}
  # system: Answer in one sentence.   # goes before every prompt, in training and in serving
  # template: alpaca             # or FILE.jinja beside this file; by default the base's own
  # holdout: 0.1                 # share of prompts kept for evaluation, never trained on
  # shadow: 0.04                 # share of prompts kept for the shadow test
  # seed: 17

# train:
#   objective: sft               # or dpo, orpo, reward (over pairs), kto (over judged answers),
#                                # grpo, rloo, ppo (over answers of its own and their rewards)
#   method: lora                 # or rslora, dora, qlora, ia3, prompt, prefix,
#                                # bottleneck, full
#   rank: 16
#   alpha: 32
#   dropout: 0.0
#   targets: all-linear          # or a list of module names
#   epochs: 1
#   batch_size: 8
#   accumulation: 1
#   packing: false               # fill each row with whole records up to max_length
#   turns: last                  # the answers of a dialogue that are learnt (sft); or every
#   learning_rate: 0.0002        # its height; by default objective and method decide
#   max_length: 512              # longer records are dropped, and listed
#   budget_usd: 5                # a plan that costs more is refused, and a run ends before that
#   deadline_hours: 2            # a plan that takes longer is refused, and a run ends before that
#   usd_hour: 0                  # what this machine costs an hour
#   patience: 2                  # end when held-out loss fell at none of so many checkpoints
#   rewards: [exact_match]       # or valid_json, FILE.py:FUNCTION, judge:RUBRIC.txt, run:ID
#   publish: []                  # tensorboard, mlflow (MLFLOW_TRACKING_URI) or mlflow:URI
#   extra: {{}}                    # anything else that TRL's configuration of the objective knows
#   launcher:                    # ranks share out each batch of batch_size
#     kind: auto                 # by devices and memory; or local, torchrun, ray, tpu
#     ranks: 2                   # by default one for each device
#     sharding: none             # each rank has the whole model (DDP); or fsdp, zero2, zero3
#     offload: none              # of zero2 and zero3: cpu, or nvme

# sweep:                         # trimtab sweep: which of these learns best
#   over: {{train.learning_rate: [0.0001, 0.0003, 0.001], train.rank: [8, 16, 32]}}
#   trials: 9                    # drawn from all combinations
#   eta: 3                       # one in so many goes on, to so many times the steps
#   budget_usd: 10               # of all trials together, at train.usd_hour
#   budget_hours: 4

# evaluate:
#   suites: [holdout, safety, performance]
#   match: []                    # JSON fields that must agree; empty compares the whole text
#   shots: 3                     # the base is also measured with this many examples in its prompt
#   gate: exact_match            # or log_likelihood, or preference where records are pairs
#   max_tokens: 48

# deploy:
#   name: {name}
#   slo: {{p95_ms: 1200, availability: 0.995}}
#   shadow: {{requests: 20}}
#   log_prompts: false           # true keeps what is asked and answered, for 30 days

# serve:                         # the built-in engine answers, unless vLLM is named
#   vllm_env: ../vllm            # an environment with vLLM, to start a server from
#   vllm_url: http://host:8000   # or a server that runs; its key is TRIMTAB_VLLM_KEY
#   price: {{prompt: 0.1, completion: 0.4, cached: 0.05}}   # a million tokens; needed with vllm_url
#   quantisation: none           # or int8, on a processor with VNNI; the built-in engine's
"""


@click.command("init")
@click.argument("folder", required=False, type=click.Path(path_type=Path, file_okay=False))
@verbose_option
def command(folder: Path | None) -> None:
    """Write a commented trimtab.yaml into FOLDER (here by default)."""
    import re

    from trimtab.errors import UserError
    from trimtab.project import FILE_NAME
    from trimtab.store.disk import write_whole

    target = (folder or Path.cwd()).resolve()
    name = re.sub(r"[^a-z0-9]+", "-", target.name.lower()).strip("-") or "project"
    file = target / FILE_NAME
    try:
        target.mkdir(parents=True, exist_ok=True)
        if file.exists():
            raise UserError(f"{file} exists already", hint="edit it, then: trimtab check")
        write_whole(file, TEMPLATE.format(name=name[:63]).encode())
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}", hint="choose another folder") from None
    click.echo(f"wrote {file}; put your records beside it, then: trimtab check && trimtab run")
