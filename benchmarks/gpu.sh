#!/usr/bin/env bash
# Runs the benchmarks that depend on an accelerator, and the tests that need one, on a machine with
# jax, flax, optax, orbax-checkpoint, torch and torchvision.
#
#     benchmarks/gpu.sh [PART...]
#
# Parts: step forms cache options epoch finetune start tests data augment precision profile. If none
# is named, all of them run in this order, because the first ones show how a step is best computed.
# After each part, results.json, results.md and log.txt are written to $OUT (default: out). A part
# that fails is noted there, and the next one begins. After $MINUTES (default: 30), no further part
# is started.
#
#     benchmarks/gpu.sh compile
#
# compiles what the first parts run for an H100, on a machine without one (extra gpu-program).
#
# DEVICE=cpu tries this script out on a CPU, with small sizes. PYTHON is the interpreter of both
# sides (default: python3). JAXCH5_FLOWERS names a folder of photographs; without it, the script
# makes some pictures itself. Missing packages are installed from the folder wheels, if there is
# one, and by pip otherwise. This fills the folder:
#
#     pip download --no-deps -d wheels grain simplejpeg fastai fastcore fasttransform ...
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

DEVICE=${DEVICE:-gpu}
PYTHON=${PYTHON:-python3}
OUT=${OUT:-out}
END=$((SECONDS + 60 * ${MINUTES:-30}))
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
LOG=$OUT/log.txt
: >"$LOG"

export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
if [ -d wheels ]; then
    # The wheels go to a folder of their own, so that installed packages keep their versions.
    "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --target "$WORK/site" \
        wheels/*.whl >>"$LOG" 2>&1 || exit 1
    export PYTHONPATH=$PYTHONPATH:$WORK/site
elif ! "$PYTHON" -c 'import grain, simplejpeg, pydantic_settings, dm_pix' 2>>"$LOG"; then
    "$PYTHON" -m pip install -q -e '.[test]' fastai >>"$LOG" 2>&1 || exit 1
fi
# Both sides run in one interpreter, unless another is named.
export JAXCH5_PEER_PYTHON=${JAXCH5_PEER_PYTHON:-$PYTHON}

if [ "$DEVICE" = cpu ]; then
    PICTURES=60 TURNS=1
    STEP=(--arch resnet18 --size 32 --batch 8 --seconds 0)
    PEER=(--modes eager)
    EPOCH=(--presize 96 --size 64 --batch 8 --precision fp32 --workers 2)
    SEEDS=1 EPOCHS=1
    SMALL=(--count 3)
    FORMS=(--arch resnet18 --size 32 --batch 8 --steps 1)
    RUN=(--data.presize 48 --data.size 32 --data.batch-size 8)
    OPTIONS=(xla_backend_optimization_level=1)
else
    PICTURES=4000 TURNS=5
    STEP=(--arch resnet50 --size 224 --batch 256 --precision bf16)
    PEER=()
    EPOCH=(--arch resnet50 --presize 256 --size 224 --batch 128 --precision bf16)
    SEEDS=3 EPOCHS=5
    SMALL=()
    FORMS=()
    RUN=(--model.arch resnet50 --model.precision bf16 --data.presize 256 --data.size 224)
    RUN+=(--data.batch-size 128)
    # Candidates for jaxch5/training/compiler.py, and what --deterministic sets. A jaxlib that lacks
    # an option refuses it by name. Truth values are written as in Python.
    OPTIONS=(
        xla_gpu_deterministic_ops=True
        xla_gpu_enable_latency_hiding_scheduler=True
        xla_gpu_enable_triton_gemm=False
        xla_gpu_exhaustive_tiling_search=True
        xla_gpu_enable_command_buffer=
        xla_gpu_experimental_enable_conv_fusion=True
        xla_gpu_experimental_enable_fusion_autotuner=False
    )
fi

photographs() {
    if [ -z "${JAXCH5_FLOWERS:-}" ]; then
        "$PYTHON" benchmarks/photographs.py "$WORK/photographs" --count "$PICTURES" || return
        export JAXCH5_FLOWERS=$WORK/photographs
    fi
}

# bench NAME SCRIPT ARGUMENT...: writes the figures to NAME.json and the errors to the log.
bench() {
    local name=$1 script=$2
    shift 2
    echo "== $name: $script $*" | tee -a "$LOG"
    # A benchmark gets the time that is left, and at least a second.
    timeout $((END > SECONDS ? END - SECONDS : 1)) \
        "$PYTHON" "benchmarks/$script" "$@" --json >"$OUT/$name.json" 2>>"$LOG" ||
        echo "$name failed with status $?" | tee -a "$LOG"
}

part() {
    case $1 in
    step) bench step step.py --device "$DEVICE" --turns "$TURNS" "${STEP[@]}" "${PEER[@]}" ;;
    options)
        bench step-alone step.py --device "$DEVICE" --turns "$TURNS" --alone "${STEP[@]}"
        for option in "${OPTIONS[@]}"; do
            bench "step-alone-${option%%=*}" step.py --device "$DEVICE" --turns "$TURNS" --alone \
                "${STEP[@]}" --options "$option"
        done
        ;;
    compile)
        whole=(resnet50/bf16 resnet50/bf16/scan resnet50/bf16/deterministic resnet50/fp16)
        bench compiled gpu_program.py "${whole[@]}"
        for option in "${OPTIONS[@]}"; do
            bench "compiled-${option%%=*}" gpu_program.py resnet50/bf16 --options "$option"
        done
        bench compiled-forms forms.py --compile-only
        ;;
    forms) bench forms forms.py --device "$DEVICE" --turns "$TURNS" "${FORMS[@]}" ;;
    cache)
        # In an epoch from the cache, many steps are one call; bare steps are called one by one.
        bench cache epoch.py --device "$DEVICE" --turns "$TURNS" --cache device --bare "${EPOCH[@]}"
        ;;
    epoch) bench epoch epoch.py --device "$DEVICE" --turns "$TURNS" "${EPOCH[@]}" ;;
    finetune)
        bench finetune start.py --device "$DEVICE" --turns 1 --fine-tune "$EPOCHS" "${EPOCH[@]}"
        ;;
    start) bench start start.py --device "$DEVICE" --turns "$TURNS" "${EPOCH[@]}" ;;
    data) bench data data.py --device "$DEVICE" --turns "$TURNS" ;;
    augment) bench augment augment.py --device "$DEVICE" --turns "$TURNS" "${SMALL[@]}" ;;
    precision) bench precision transfer.py --device "$DEVICE" --part precision --seeds "$SEEDS" ;;
    profile)
        echo "== profile" | tee -a "$LOG"
        "$PYTHON" -m jaxch5.train --data.path "$JAXCH5_FLOWERS" --model.weights none --profile \
            --fit.epochs 2 "${RUN[@]}" --workdir "$WORK/profiled" 2>&1 | tee -a "$LOG"
        cp "$(find "$WORK/profiled" -name perfetto_trace.json.gz | head -n 1)" "$OUT"
        ;;
    tests)
        echo "== tests" | tee -a "$LOG"
        # The project's usual options need pytest-xdist, which a machine with a GPU may not have.
        "$PYTHON" -m pytest -o addopts=--import-mode=importlib -m gpu -p no:cacheprovider tests 2>&1 | tail -n 20 | tee -a "$LOG"
        ;;
    *)
        echo "$1: no such part; see the head of this script" >&2
        exit 2
        ;;
    esac
}

if [ $# -eq 0 ]; then
    set -- step forms cache options epoch finetune start tests data augment precision profile
fi
[ "$*" = compile ] || photographs
for name in "$@"; do
    if [ $SECONDS -ge $END ]; then
        echo "$name: there is no time left" | tee -a "$LOG"
        continue
    fi
    part "$name"
    # Collected after each part, so that a run that is cut short leaves its results so far.
    "$PYTHON" benchmarks/collect.py "$OUT"
done
# results.json holds everything, so the file of each benchmark is not needed any more.
"$PYTHON" benchmarks/collect.py "$OUT" && find "$OUT" -name '*.json' ! -name results.json -delete
cat "$OUT/results.md"
