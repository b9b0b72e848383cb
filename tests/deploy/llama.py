"""Asks a real llama.cpp, in the environment that holds `xllamacpp`: `ASKED.json`.

The file names a model, its adapters and requests of llama-server's own `/completion`; what was
answered is printed as JSON.
"""

import json
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import xllamacpp


def main() -> None:
    asked = json.loads(Path(sys.argv[1]).read_text())
    params = xllamacpp.CommonParams()
    params.model.path = asked["model"]
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.n_ctx, params.n_parallel, params.warmup, params.ui = 256, 1, False, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.lora_init_without_apply = True
    params.lora_adapters = [
        xllamacpp.CommonAdapterLoraInfo(path, 0.0) for path in asked["adapters"]
    ]
    server = xllamacpp.Server(params)
    answers = [ask(server.listening_address, request) for request in asked["requests"]]
    print(json.dumps(answers), flush=True)


def ask(address: str, request: dict[str, object]) -> object:
    head = {"Content-Type": "application/json"}
    with urlopen(Request(f"{address}/completion", json.dumps(request).encode(), head)) as answer:
        return json.loads(answer.read())


if __name__ == "__main__":
    main()
