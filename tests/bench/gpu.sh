#!/bin/bash
# What one GPU does with this project, as a table in OUT: steps of FullCoT beside TRL, answers, MFU, peak memory, waits of
# the host, and the laws that need a GPU. Each of the seven ways ends after LIMIT seconds, 120 by default: at most 15 minutes in
# all. On an H100 answers and compiled take more than 70 s. Needs network access for MODEL, pip install -e '.[dev,oracles]',
# and flash-attn for packed rows (ATTENTION= runs without).
#   tests/bench/gpu.sh
# On a CPU, with a small student from scratch, every command in a few minutes:
#   MODEL= ROWS=8 BATCH=4 NEW=8 PRECISION=32-true ATTENTION= tests/bench/gpu.sh
set -uo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON-.venv/bin/python}
MODEL=${MODEL-Qwen/Qwen2-1.5B}
ROWS=${ROWS-512}
BATCH=${BATCH-16}
NEW=${NEW-128}
PRECISION=${PRECISION-bf16-mixed}
ATTENTION=${ATTENTION-flash_attention_2}
WAYS=${WAYS-padded packed trl trl_packed trl_padding_free answers compiled}
OUT=${OUT-runs/bench/gpu.md}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

mkdir -p "$(dirname "$OUT")"
settings=(--rows "$ROWS" --batch "$BATCH" --new "$NEW" --precision "$PRECISION" --limit "${LIMIT-120}")
[ -n "$MODEL" ] && settings+=(--model "$MODEL")
[ -n "$ATTENTION" ] && settings+=(--attention "$ATTENTION")
{
    echo "# $(git rev-parse --short HEAD), $(date -u +%F)"
    # shellcheck disable=SC2086
    "$PYTHON" tests/bench/steps.py table $WAYS "${settings[@]}"
    echo
    echo '```'
    "$PYTHON" -m pytest -q tests/methods/test_syncs.py tests/students/test_packing.py 2>&1 | tail -3
    echo '```'
} | tee "$OUT"
