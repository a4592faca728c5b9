#!/bin/sh
# Sets up what is needed, then runs the six stages, one of them, or the tests. `sh run.sh --help`.
# POSIX sh on purpose: it has to run wherever Python does.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

show_help() {
    cat <<'EOF'
Usage: sh run.sh [STAGE] [OPTIONS]      the whole pipeline, or one stage of it
       sh run.sh tag FILES [OPTIONS]    tag audio files with what was trained; tag --help
       sh run.sh search [OPTIONS]       find better settings by trials; search --help
       sh run.sh kernel [OPTIONS]       pack what was trained for Kaggle; kernel --help
       sh run.sh test [PYTEST ARGS]     lint, format check and tests

The first run installs the pinned packages into .venv beside this script (or into the virtual or
conda environment that is active, conda's `base` excepted); later runs install nothing. It needs
Python 3.10, 3.11 or 3.12. Where an NVIDIA GPU is visible, TensorFlow's CUDA libraries come too.

Stages, in the order in which the pipeline runs them; it stops at the first that fails:
  preprocess   decode and trim every clip once, compute global features, assign folds
  pretrain     train each network on the noisy clips
  train        train each experiment, fold by fold, on the curated clips
  predict      score the test clips with every fold's network
  ensemble     stack the experiments, write the submission, print the table of scores
  report       write report.html, to look at and listen to, and suspects.csv

Options, for instance `sh run.sh train --experiments v1mix --folds 0,1`:
  --input DIR          the dataset (default: input/ beside this script; its README lists the
                       layouts). Without one, a small synthetic dataset is made and used.
  --output DIR         everything that is made goes here (default: output/ beside this script)
  --profile NAME       published   every setting as published: one GPU, days
                       small       narrower networks for real data on a CPU
                       best        the same, trained twice as long: better, not as published
                       demo        minutes; the default for the synthetic dataset
  --settings FILE      JSON of settings that differ from the profile's, such as search writes
  --experiments A,B    only these experiments, by name, such as v1mix,max3exam
  --folds 0,3          only these folds, by number from 0
  --skip-unreadable    leave out training clips that cannot be decoded, instead of stopping
  --force              make again what is there; without it, the command goes on where it broke off
  --scheduler ADDRESS  the Dask scheduler whose workers take part; or --scheduler-file FILE
  --no-venv            use the Python at hand (Colab, Kaggle): add what it lacks, replace nothing
  -h, --help           this text

PYTHON=/path/to/python chooses the Python that .venv is made with, or that --no-venv uses.
EOF
}

die() { # die MESSAGE [STATUS]
    printf 'run.sh: %s\n' "$1" >&2
    exit "${2-1}"
}

# Sets `version`. Really runs the candidate: version managers leave commands that exist but fail.
fits() { # fits PYTHON
    version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || return 1
    # With --no-venv a newer one will do: the pins do not matter there.
    case $use_venv$version in yes3.1[0-2] | no3.1[0-9] | no3.[2-9][0-9]) return ;; esac
    return 1
}

# Sets `python` to a suitable interpreter outside any environment of ours.
find_python() {
    found=
    for python in ${PYTHON:+"$PYTHON"} python3 python3.12 python3.11 python3.10 python; do
        if fits "$python"; then return; fi
        test "$python" != "${PYTHON-}" || die "PYTHON=$python is no Python 3.10, 3.11 or 3.12"
        found="$found${version:+ $python is $version,}"
    done
    die "needs Python 3.10, 3.11 or 3.12, found${found:- none,} so install one (python.org, conda,\
 uv) or name one: PYTHON=/path/to/python3.12 sh run.sh"
}

# Sets `python` and `prefix`, the directory of its environment.
select_environment() {
    # They would put other packages before the environment's, or new ones elsewhere.
    unset PYTHONHOME PYTHONPATH PYTHONPLATLIBDIR PYTHONEXECUTABLE PIP_TARGET PIP_PREFIX PIP_ROOT
    export PYTHONNOUSERSITE=1 PIP_USER=no
    # conda activates `base` in every shell; it is the user's own and not to be filled with pins.
    prefix=${VIRTUAL_ENV-}
    if [ -z "$prefix" ] && [ "${CONDA_DEFAULT_ENV-}" != base ]; then prefix=${CONDA_PREFIX-}; fi
    if [ -z "$prefix" ]; then
        prefix=$here/.venv
        fits "$prefix/bin/python" || make_venv
    fi
    python=$prefix/bin/python
    fits "$python" || die "the environment $prefix has Python ${version:-that fails for this user},\
 not 3.10, 3.11 or 3.12: deactivate it or move it away, then run again"
    "$python" -c 'import pip' 2>/dev/null || "$python" -m ensurepip >/dev/null 2>&1 ||
        die "the environment $prefix has no pip: install it there, or deactivate or move it away"
}

make_venv() {
    # What is there is somebody else's, unless this user made it and it bears our name as its prompt.
    test -z "$(ls -A "$prefix" 2>/dev/null)" || { grep -qs "^prompt = 'run.sh'" "$prefix/pyvenv.cfg" &&
        test -n "$(find "$prefix" -prune -user "$(id -u)")"; } || return 0
    find_python
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        die "$python has no venv module: install it (Debian: apt install python$version-venv)"
    said=$("$python" -m venv --clear --prompt run.sh "$prefix" 2>&1) ||
        die "cannot make $prefix: $(printf '%s\n' "$said" | tail -n 1)"
}

# cuDNN 9.10 is the last for GPUs before Turing, such as the P100 of the published run.
cudnn=nvidia-cudnn-cu12==9.10.2.21

pip_install() { # pip_install FILE PINS CONSTRAINTS [OPTION]
    if { said=$(printf '%s\n' "$2" | sed "s/^tensorflow==/tensorflow$extra==/" |
        "$python" -m pip install --quiet --disable-pip-version-check --no-input ${4+"$4"} \
            -r /dev/stdin -c /dev/fd/3 2>&1); } 3<<CONSTRAINTS
$3
CONSTRAINTS
    then return; fi
    reason=$(printf '%s\n' "$said" | awk '/Ignored the following|from versions/ {next}
        tolower($0) ~ /^error/ {r = $0; exit} NF {r = $0} END {print r}')
    case $said in
        *externally-managed*) advice='the system manages this Python: leave out --no-venv' ;;
        *[Cc]onnection* | *'timed out'* | *ProxyError* | *SSLError* | *'HTTP error'*)
            advice='check the network and its proxy, then run the same command again' ;;
        *) advice= ;;
    esac
    die "pip could not install $1: $reason${advice:+ ($advice)}"
}

# The pins whose package is neither installed nor importable (tensorflow-cpu is TensorFlow too).
missing() { # missing FILE
    "$python" - "$here/$1" <<'EOF'
import re, sys
from importlib.metadata import distributions
from importlib.util import find_spec

sys.path = [entry for entry in sys.path if entry]  # a folder of the caller's is no package
for line in open(sys.argv[1]):
    if pin := line.split("#")[0].strip():
        name = re.match(r"[\w.-]+", pin)[0]
        if not any(distributions(name=name)) and not find_spec(name.replace("-", "_")):
            print(pin)
EOF
}

# Installs a requirements file once. The stamp, written last, says what was installed, so that an
# installation that broke off is not taken for a whole one and changed pins are installed.
install_once() { # install_once FILE
    stamp=$prefix/.run-sh-$(printf '%s' "$1" | tr / -)
    state="$(cksum <"$here/$1") python$version${extra:+ $cudnn}"
    # CUDA libraries that are there do no harm on a machine without a GPU (a cluster's login node).
    case $(cat "$stamp" 2>/dev/null) in "$state"*) return ;; esac
    rm -f -- "$stamp"
    # Where TensorFlow is there already, the rest is small.
    case $(missing "$1") in *tensorflow==*) note=" ($size)" ;; *) note='' space=0 ;; esac
    free=$(df -P -k "$prefix" 2>/dev/null | sed -n '2s/.* \([0-9][0-9]*\)  *[0-9]*%.*/\1/p')
    test "${free:-$space}" -ge "$space" ||
        die "$prefix has $((free / 1000)) MB left, the packages take $((space / 1000)): free some"
    printf 'Installing %s into %s, once%s\n' "$1" "$prefix" "$note"
    pip_install "$1" "$(cat "$here/$1")" "$cudnn"
    test -z "$(missing "$1")" || die "pip put the packages elsewhere: see target in 'pip config list'"
    printf '%s\n' "$state" >"$stamp"
}

# For a Python that is not ours: adds what is missing, holds all else where it is, but for versions
# that are not of Python's own form (Linux distributions have some).
add_missing() { # add_missing FILE
    absent=$(missing "$1")
    if [ -z "$absent" ]; then return; fi
    printf 'Installing what %s lacks: %s\n' "$python" "$(printf '%s' "$absent" | tr '\n' ' ')"
    held=$({ "$python" -m pip list --format=freeze 2>/dev/null && echo "$cudnn"; } | awk -F== '
        $2 ~ /^[0-9]+(\.[0-9]+)*((a|b|rc|\.post|\.dev)[0-9]+)*(\+[A-Za-z0-9.]+)?$/ && !seen[$1]++')
    pip_install "$1" "$(printf '%s\n' "$absent" | sed '/^kapre==/d')" "$held"
    # kapre would replace a newer TensorFlow or Keras; what it needs is in requirements.txt anyway.
    case $absent in *kapre==*) pip_install "$1" "$(grep '^kapre==' "$here/$1")" '' --no-deps ;; esac
}

set_up() { # set_up FILE...
    unset PYTHONSAFEPATH PYTHONIOENCODING # the one hides the modules beside a stage
    export PYTHONUTF8=1                   # file names, whatever the locale
    # A second run may come while the first one installs: this file is locked, until 8 is closed.
    exec 8<"$here/run.sh"
    "${PYTHON:-python3}" -c '
from fcntl import LOCK_EX, LOCK_NB, flock
try:
    flock(8, LOCK_EX | LOCK_NB)
except BlockingIOError:
    print("Waiting for an installation that another run.sh has begun", flush=True)
    flock(8, LOCK_EX)' 2>/dev/null || :
    # Sizes as measured with the present pins on Linux x86-64, where TensorFlow knows GPUs.
    extra='' space=3200000 size='0.9 GB to download, 3.1 GB on disk, a few minutes'
    if nvidia-smi -L 2>/dev/null | grep -q '^GPU ' && [ "$(uname -m)" = x86_64 ]; then
        extra='[and-cuda]' space=7600000 size='3.7 GB to download with CUDA, 7.4 GB on disk'
    fi
    if [ "$use_venv" = yes ]; then select_environment; else find_python; fi
    for file; do if [ "$use_venv" = yes ]; then install_once "$file"; else add_missing "$file"; fi; done
    exec 8<&-
}

use_venv=yes
case ${1-} in --no-venv) use_venv=no && shift ;; esac
stages='preprocess pretrain train predict ensemble report'
case ${1-} in
    preprocess | pretrain | train | predict | ensemble | report)
        stages=$1 && shift ;;
    tag | kernel | search) # the rest of the command line is the script's, and so is standard input
        script=$here/code/$1.py && shift
        set_up requirements.txt >&2 # what the script prints may be JSON
        exec "$python" "$script" "$@" ;;
    test)
        shift && set_up requirements.txt tests/requirements.txt
        cd -- "$here" # where pytest and ruff find their settings
        "$python" -m ruff check code tests
        "$python" -m ruff format --check code tests
        exec "$python" -m pytest "$@" ;;
esac

# Mistakes in the arguments are reported before anything is installed. Each argument goes to the end
# of the list, so after one round the list is again as it was, less what is meant for us.
output=$here/output
option= # the one whose value comes next
for argument; do
    shift
    case $option:$argument in
        :-h | :--help) show_help && exit ;;
        :--no-venv) use_venv=no && continue ;;
        :--output=?*) output=${argument#*=} ;;
        :--input=?* | :--profile=?* | :--settings=?* | :--experiments=?* | :--folds=?* | \
            :--scheduler=?* | :--scheduler-file=?*) ;;
        :--input | :--output | :--profile | :--settings | :--experiments | :--folds | \
            :--scheduler | :--scheduler-file) option=$argument ;;
        :--skip-unreadable | :--force) ;;
        :*) die "unknown argument '$argument'; sh run.sh --help lists stages and options" 2 ;;
        "$option":) break ;;
        --output:*) output=$argument option='' ;;
        *) option='' ;;
    esac
    set -- "$@" "$argument"
done
if [ -n "$option" ]; then die "$option needs a value; sh run.sh --help explains it" 2; fi

set_up requirements.txt
# The stages lock the output folder through a file that this shell holds open, so that the lock
# stays from one stage to the next, and goes with the last process of the run.
if (mkdir -p -- "$output" && : >>"$output/.lock") 2>/dev/null; then
    exec 9>>"$output/.lock"
    export RUN_SH_LOCK=9
fi
export RUN_SH_PROCESS=$$ RUN_SH_STAGES="$stages" # workers do two of them in one go
# A stage runs in the caller's directory, from which relative paths are meant. A signal that reaches
# this shell alone ends the stage too; an interrupted `wait` leaves that to the trap.
for stage in $stages; do
    "$python" "$here/code/$stage.py" "$@" & child=$!
    trap 'kill "$child" 2>/dev/null || :; wait "$child" || :; exit 130' INT TERM HUP
    wait "$child" || exit
done
