"""Methods: how weights change. One file a method; this table says what is true of each.

Importing the table imports no torch: the plan, the project and the command line read it too. The
module of a method, `trimtab.train.methods.NAME`, gives PEFT's configuration of it; PEFT knows no
bottlenecks, so that module puts them on the model itself.
"""

from dataclasses import dataclass

from trimtab.errors import ProjectError


@dataclass(frozen=True, slots=True)
class Method:
    """What is true of a method.

    `frozen`: the base's weights stay as they are. `targeted`: it attaches to the modules that
    `train.targets` names. `in_layers`: it changes what layers compute and not what comes before
    the prompt, so that a prefix computed once serves every row. `mergeable`: it can be folded into
    the base's weights. `quantised`: the frozen base lies in 4 bits. `pace`: its learning rate over
    that of LoRA, where the project sets none.
    """

    name: str
    about: str
    frozen: bool = True
    targeted: bool = True
    in_layers: bool = True
    mergeable: bool = True
    quantised: bool = False
    pace: float = 1.0


METHODS = {
    method.name: method
    for method in (
        Method("lora", "a low-rank pair beside each target (Hu et al. 2021)"),
        Method("rslora", "LoRA scaled by the root of its rank (Kalajdzievski 2023)"),
        Method("dora", "LoRA of direction, and a magnitude learnt apart (Liu et al. 2024)"),
        Method(
            "qlora",
            "LoRA over a base in 4 bits, nf4 quantised twice (Dettmers et al. 2023)",
            quantised=True,
        ),
        # The paper's own rate, 3e-3, beside LoRA's 2e-4.
        Method(
            "ia3",
            "factors on keys, values and the MLP's inside (Liu et al. 2022)",
            targeted=False,
            pace=15,
        ),
        # A few vectors steer the whole model: they have far to go, and each step is small.
        Method(
            "prompt",
            "vectors before the embedded prompt (Lester et al. 2021)",
            targeted=False,
            in_layers=False,
            mergeable=False,
            pace=50,
        ),
        Method(
            "prefix",
            "keys and values before the prompt, in every layer (Li and Liang 2021)",
            targeted=False,
            in_layers=False,
            mergeable=False,
            pace=50,
        ),
        Method(
            "bottleneck",
            "a narrow MLP behind every attention and MLP (Houlsby et al. 2019)",
            targeted=False,
            mergeable=False,
        ),
        # Every weight moves, so each moves less.
        Method("full", "every weight of the base", frozen=False, targeted=False, pace=0.1),
    )
}


def method_of(name: str) -> Method:
    """Raises ProjectError for a name that is no method."""
    if name not in METHODS:
        raise ProjectError(
            f"train.method: no method {name!r}", hint=f"methods: {', '.join(METHODS)}"
        )
    return METHODS[name]
