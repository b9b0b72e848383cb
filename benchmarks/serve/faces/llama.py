"""llama.cpp's own HTTP server, from the wheel that carries it: `PORT MODEL THREADS [ADAPTERS...]`.

Adapters are fixed at start; a request names one by its number and a scale.
"""

import sys
import time

import xllamacpp


def main() -> None:
    port, model, threads, *adapters = sys.argv[1:]
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.hostnames = ["127.0.0.1"]
    params.port = int(port)
    params.n_parallel = 32
    params.kv_unified = True
    params.n_ctx = 32 * 512
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(threads)
    params.cache_ram_mib = 0
    params.ui = False
    params.lora_init_without_apply = True
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 0.0) for path in adapters]
    server = xllamacpp.Server(params)
    print("ready", flush=True)
    while server:
        time.sleep(3600)


if __name__ == "__main__":
    main()
