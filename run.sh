#!/bin/sh
# Sets up what is needed, then runs the five stages, one of them, or the tests. `sh run.sh --help`.
# POSIX sh on purpose: it has to run wherever Python does.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

show_help() {
    cat <<'EOF'
Usage: sh run.sh [STAGE] [OPTIONS]      the whole pipeline, or one stage of it
       sh run.sh tag FILES [OPTIONS]    tag audio files with what was trained; tag --help
       sh run.sh kernel [OPTIONS]       pack what was trained for Kaggle; kernel --help
       sh run.sh test [PYTEST ARGS]     lint, format check and tests

The first run installs the pinned packages into .venv beside this script (or into the virtual or
conda environment that is active, conda's `base` excepted); later runs install nothing. It needs
Python 3.10, 3.11 or 3.12 and no root. Where an NVIDIA GPU is visible, TensorFlow comes with its
CUDA libraries.

Stages, in the order in which the pipeline runs them; it stops at the first that fails:
  preprocess   decode and trim every clip once, compute global features, assign folds
  pretrain     train each network on the noisy clips
  train        train each experiment, fold by fold, on the curated clips
  predict      score the test clips with every fold's network
  ensemble     stack the experiments, write the submission, print the table of scores

Options:
  --input DIR          the dataset (default: input/ beside this script; its README lists the layouts).
                       Where there is none, a small synthetic dataset is made and used.
  --output DIR         everything that is made goes here (default: output/ beside this script)
  --profile NAME       published   every setting as published: one GPU, days
                       small       narrower networks for real data on a CPU
                       demo        minutes; the default for the synthetic dataset
  --experiments A,B    only these experiments, by name, such as v1mix,max3exam
  --folds 0,3          only these folds, by number from 0
  --skip-unreadable    leave out training clips that cannot be decoded, instead of stopping
  --force              make results again that are there already; without it the same command
                       goes on where it was interrupted, and makes only what differs
  --no-venv            use the Python at hand (Colab, Kaggle): install only packages that are
                       missing there, replace none
  -h, --help           this text

Environment: PYTHON=/path/to/python chooses the Python that .venv is made with, or that --no-venv uses.

Examples:
  sh run.sh                                              the demo, or the dataset in input/
  sh run.sh --input /data/FSDKaggle2019 --profile small
  sh run.sh train --experiments v1mix --folds 0,1        one stage, two folds
  sh run.sh --no-venv --input /kaggle/input/freesound-audio-tagging-2019
  sh run.sh tag recording.flac                           its tags, and a timeline if it is long
  sh run.sh test tests/test_run_sh.py -k pip
EOF
}

die() { # die MESSAGE [STATUS]
    printf 'run.sh: %s\n' "$1" >&2
    exit "${2-1}"
}

# ---- Python ----------------------------------------------------------------------------------

# Sets `version`. Really runs the candidate: version managers leave commands that exist but fail.
fits() { # fits PYTHON
    version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || return 1
    case $version in
        3.10 | 3.11 | 3.12) return 0 ;;
        3.1[3-9] | 3.[2-9][0-9]) test "$use_venv" = no ;; # the pins do not matter there
        *) return 1 ;;
    esac
}

# Sets `python` to a suitable interpreter outside any environment of ours.
find_python() {
    if [ -n "${PYTHON-}" ]; then
        python=$PYTHON
        fits "$python" || die "PYTHON=$PYTHON is not a working Python 3.10, 3.11 or 3.12"
        return
    fi
    found=
    for python in python3 python3.12 python3.11 python3.10 python; do
        if fits "$python"; then return; fi
        found="$found${version:+ $python is $version,}"
    done
    die "needs Python 3.10, 3.11 or 3.12, found${found:- none,} so install one (python.org, conda, uv)\
 or name one: PYTHON=/path/to/python3.12 sh run.sh"
}

has_pip() { "$python" -c 'import pip' 2>/dev/null; }

# Sets `python` and, unless --no-venv, `prefix`: the environment's directory.
select_environment() {
    if [ "$use_venv" = no ]; then
        find_python
        return
    fi
    # conda activates `base` in every shell; it is the user's own and not to be filled with pins.
    prefix=${VIRTUAL_ENV-}
    if [ -z "$prefix" ] && [ "${CONDA_DEFAULT_ENV-}" != base ]; then prefix=${CONDA_PREFIX-}; fi
    if [ -n "$prefix" ]; then
        python=$prefix/bin/python
        fits "$python" || die "the active environment $prefix has Python ${version:-that fails}, not\
 3.10, 3.11 or 3.12: deactivate it, then run again"
        has_pip || "$python" -m ensurepip >/dev/null 2>&1 ||
            die "the active environment $prefix has no pip: install it there, or deactivate it"
    else
        prefix=$here/.venv
        python=$prefix/bin/python
        if ! fits "$python" || ! has_pip; then make_venv; fi
    fi
}

make_venv() {
    find_python
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        die "$python has no venv module: install it (Debian, Ubuntu: apt install python$version-venv),\
 or activate a conda environment with Python $version, then run again"
    said=$("$python" -m venv --clear "$prefix" 2>&1) ||
        die "cannot make $prefix: $(printf '%s\n' "$said" | tail -n 1)"
    python=$prefix/bin/python
}

# ---- Packages --------------------------------------------------------------------------------

# cuDNN 9.10 is the last for GPUs before Turing, such as the P100 of the published run.
cudnn=nvidia-cudnn-cu12==9.10.2.21

# TensorFlow's wheels for other processors than x86 know no GPU.
gpu_visible() { nvidia-smi -L 2>/dev/null | grep -q '^GPU ' && test "$(uname -m)" = x86_64; }

with_cuda() { sed 's/^tensorflow==/tensorflow[and-cuda]==/'; }

pip_install() { # pip_install WHAT PIP-ARGUMENTS...
    what=$1
    shift
    if said=$("$python" -m pip install --quiet --disable-pip-version-check --no-input "$@" 2>&1)
    then return; fi
    reason=$(printf '%s\n' "$said" |
        awk '/Ignored the following/ {next} tolower($0) ~ /^error/ {r = $0; exit} NF {r = $0} END {print r}')
    die "pip could not install $what: $reason (check the network, its proxy and the free disk space,\
 then run the same command again)"
}

# The pins of a file whose package cannot be imported, one a line.
missing() { # missing FILE
    "$python" - "$1" <<'EOF'
import importlib.util, re, sys

sys.path = [entry for entry in sys.path if entry]  # a folder of the caller's is no package
modules = {
    "iterative-stratification": "iterstrat",
    "protobuf": "google.protobuf",
    "scikit-learn": "sklearn",
}


def importable(module):
    try:
        spec = importlib.util.find_spec(module)
    except ImportError:
        return False
    return spec is not None and spec.origin is not None


for line in open(sys.argv[1]):
    name = re.match(r"[\w.-]+", line)
    if name and not importable(modules.get(name[0], name[0].replace("-", "_"))):
        print(line.split("#")[0].strip())
EOF
}

# Every installed package at its version, as pip constraints. Versions that are not of Python's own
# form (Linux distributions have some) would be refused, and nothing of ours depends on those.
installed() {
    "$python" - <<'EOF'
import importlib.metadata, re

versions = {}
for dist in importlib.metadata.distributions():
    if re.fullmatch(r"\d+(\.\d+)*((a|b|rc|\.post|\.dev)\d+)*(\+[\w.]+)?", dist.version or ""):
        versions.setdefault(dist.metadata["Name"], dist.version)
print(*(f"{name}=={version}" for name, version in versions.items()), sep="\n")
EOF
}

check_space() { # check_space DIR KIBIBYTES
    free=$(df -P -k "$1" 2>/dev/null |
        awk 'NR == 2 {for (i = 2; i <= NF; i++) if ($i ~ /^[0-9]+%$/) {print $(i - 1); exit}}') || free=
    if [ -n "$free" ] && [ "$free" -lt "$2" ]; then
        die "$1 has $((free / 1000)) MB of disk space left and the packages take $(($2 / 1000)) MB:\
 free some, or put this project on a larger disk"
    fi
}

# Installs a requirements file once. The stamp, written last, says what was installed, so that an
# installation that broke off is not taken for a whole one and changed pins are installed.
install_once() { # install_once FILE STAMP CUDNN KIBIBYTES DESCRIPTION
    stamp=$prefix/$2
    pins="$(cksum <"$1") python$version"
    was=$(cat "$stamp" 2>/dev/null) || was=
    # CUDA libraries that are there do no harm on a machine without a GPU (a cluster's login node).
    case "$3 $was" in "$3 $pins cuda=$3" | "no $pins cuda="*) return ;; esac
    rm -f -- "$stamp"
    # Where TensorFlow is there already, the rest is small.
    case $(missing "$1") in *tensorflow==*) check_space "$prefix" "$4" ;; esac
    printf 'Installing %s into %s, once\n' "$5" "$prefix"
    if [ "$3" = no ]; then
        pip_install "$1" -r "$1"
    else
        pip_install "$1" -r "$1" "$(grep '^tensorflow==' "$1" | with_cuda)" "$3"
    fi
    printf '%s\n' "$pins cuda=$3" >"$stamp"
}

# Sizes as measured with the present pins on Linux x86-64.
install_packages() {
    what='TensorFlow and the rest of requirements.txt'
    if gpu_visible; then
        install_once "$here/requirements.txt" .run-sh-packages "$cudnn" 7300000 \
            "$what (with CUDA: 3.6 GB to download, 7.1 GB on disk, several minutes)"
    else
        install_once "$here/requirements.txt" .run-sh-packages no 3000000 \
            "$what (0.8 GB to download, 2.8 GB on disk, a few minutes)"
    fi
}

# For a Python that is not ours: adds what is missing, holds everything else where it is.
add_missing_packages() { # add_missing_packages FILE
    absent=$(missing "$1")
    if [ -z "$absent" ]; then return; fi
    printf 'Installing what %s lacks: %s\n' "$python" "$(printf '%s' "$absent" | tr '\n' ' ')"
    if gpu_visible; then
        absent=$(printf '%s\n' "$absent" | with_cuda)
    fi
    # kapre would replace a newer TensorFlow or Keras; what it needs is in requirements.txt anyway.
    kapre=$(printf '%s\n' "$absent" | sed -n '/^kapre==/p')
    others=$(printf '%s\n' "$absent" | sed '/^kapre==/d')
    if [ -n "$others" ]; then
        held=$(installed)
        case $held in *nvidia-cudnn-cu12==*) ;; *) held=$(printf '%s\n' "$held" "$cudnn") ;; esac
        pip_install "$1" -r /dev/fd/3 -c /dev/fd/4 3<<OTHERS 4<<INSTALLED
$others
OTHERS
$held
INSTALLED
    fi
    if [ -n "$kapre" ]; then pip_install "$1" --no-deps "$kapre"; fi
}

# `sh run.sh test` in a second window may come while the first one installs. Where the disk has no
# locks, it does not wait. The lock is on this file, as descriptor 8, until that is closed.
wait_for_other_installations() {
    exec 8<"$here/run.sh"
    for python in "$here/.venv/bin/python" "${PYTHON-python3}"; do
        if "$python" -c '
import fcntl
try:
    fcntl.flock(8, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("Waiting for an installation that another run.sh has begun", flush=True)
    fcntl.flock(8, fcntl.LOCK_EX)
' 2>/dev/null; then return; fi
    done
}

set_up() { # set_up [test]
    wait_for_other_installations
    version=
    select_environment
    if [ "$use_venv" = no ]; then
        add_missing_packages "$here/requirements.txt"
        if [ "${1-}" = test ]; then add_missing_packages "$here/tests/requirements.txt"; fi
    else
        install_packages
        if [ "${1-}" = test ]; then
            install_once "$here/tests/requirements.txt" .run-sh-test-packages no 0 \
                'pytest, hypothesis and ruff (15 MB to download)'
        fi
    fi
    exec 8<&-
}

# ---- What to do ------------------------------------------------------------------------------

# The rest of the command line is the script's, and so is standard input.
run_script() { # run_script NAME ARGUMENTS...
    script=$here/code/$1.py
    shift
    set_up >&2 # what the script prints may be JSON
    exec "$python" "$script" "$@"
}

run_tests() {
    set_up test
    cd -- "$here" # where pytest and ruff find their settings
    "$python" -m ruff check code tests
    "$python" -m ruff format --check code tests
    exec "$python" -m pytest "$@"
}

use_venv=yes
if [ "${1-}" = --no-venv ]; then
    use_venv=no
    shift
fi

stage=
output=$here/output
case ${1-} in
    test)
        shift
        run_tests "$@"
        ;;
    tag | kernel) run_script "$@" ;;
    preprocess | pretrain | train | predict | ensemble)
        stage=$1
        shift
        ;;
esac

# Mistakes in the arguments are reported before anything is installed. Each argument kept goes to
# the end of the list, so after one round the list is again as it was, less what is meant for us.
rounds=$#
while [ "$rounds" -gt 0 ]; do
    argument=$1
    shift
    rounds=$((rounds - 1))
    case $argument in
        -h | --help)
            show_help
            exit
            ;;
        --no-venv) use_venv=no ;;
        --skip-unreadable | --force | --input=?* | --output=?* | --profile=?* | --experiments=?* | --folds=?*)
            case $argument in --output=*) output=${argument#*=} ;; esac
            set -- "$@" "$argument"
            ;;
        --input | --output | --profile | --experiments | --folds)
            if [ "$rounds" -eq 0 ] || [ -z "$1" ]; then
                die "$argument needs a value; sh run.sh --help explains it" 2
            fi
            value=$1
            if [ "$argument" = --output ]; then output=$value; fi
            shift
            rounds=$((rounds - 1))
            set -- "$@" "$argument" "$value"
            ;;
        *) die "unknown argument '$argument'; sh run.sh --help lists stages and options" 2 ;;
    esac
done

# Runs a stage in the caller's directory, from which relative paths are meant. A signal that reaches
# this shell alone ends the stage too; an interrupted `wait` leaves that to the trap.
run_stage() { # run_stage STAGE ARGUMENTS...
    script=$here/code/$1.py
    shift
    "$python" "$script" "$@" &
    child=$!
    trap 'kill "$child" 2>/dev/null; wait "$child" || :; exit 130' INT TERM HUP
    status=0
    wait "$child" || status=$?
    trap - INT TERM HUP
    if [ "$status" -ne 0 ]; then exit "$status"; fi
}

# The stages lock the output folder. They do so through a file that this shell holds open, so that
# the lock stays where it is between two stages, and goes when the last process of the run does.
hold_lock() {
    mkdir -p -- "$output" 2>/dev/null || return 0 # the first stage says what is wrong with it
    # In a shell of its own: dash ends where a redirection of `:` fails.
    if (: >>"$output/.lock") 2>/dev/null; then
        exec 9>>"$output/.lock"
        export RUN_SH_LOCK=9
    fi
}

set_up
hold_lock
if [ -n "$stage" ]; then
    run_stage "$stage" "$@"
else
    for stage in preprocess pretrain train predict ensemble; do
        run_stage "$stage" "$@"
    done
fi
