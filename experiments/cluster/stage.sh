#!/bin/bash
# Downloads a model, and a data set if one is named, into the hub's cache, for compute nodes without network.
# Run it on a login node, with HF_HOME on a file system that compute nodes see; set the same HF_HOME for the job:
#   export HF_HOME=/scratch/me/huggingface
#   experiments/cluster/stage.sh microsoft/Phi-3-mini-4k-instruct openai/gsm8k main
set -euo pipefail
model=${1:?which model? stage.sh MODEL [DATASET [CONFIG]]}
: "${HF_HOME:?set it to a folder that compute nodes see}"
hf download "$model" --exclude "*.gguf" "*.onnx" "*.msgpack" "*.h5" "original/*"
if [ $# -gt 1 ]; then
  # Load the data set instead of downloading its files: offline mode looks for the prepared copy.
  python -c 'import sys, datasets; print(datasets.load_dataset(*sys.argv[1:]))' "${@:2}"
fi
