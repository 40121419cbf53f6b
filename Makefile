# `make demo` and `make test` do all of their own set-up, into .venv. `make help` lists the rest.
#
#   VENV=system   use the python3 at hand, which must hold torch, pip, setuptools, pybind11, cmake and what the tests
#                 import: nothing is downloaded and nothing outside this folder is written
#   PYTHON        the interpreter to start from                             (python3)
#   TORCH_SPEC    what pip is asked for. On Linux PyPI's torch brings gigabytes of CUDA libraries; for the small build
#                 PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu" TORCH_SPEC=torch==2.13.0+cpu
#   PIP_ARGS      more arguments for pip: an index, a proxy, a folder of wheels
#   EXTRAS        extras of pyproject.toml to install                       (test,triton,lint; bench adds JAX)
#   ARGS          more arguments for pytest or for the demo: make test ARGS="-k langevin"
#   DEVICE        cpu or cuda, for test and bench                           (cpu)

VENV       ?= .venv
PYTHON     ?= python3
TORCH_SPEC ?= torch==2.13.0
PIP_ARGS   ?=
EXTRAS     ?= test,triton,lint
ARGS       ?=
DEVICE     ?= cpu

export PIP_DISABLE_PIP_VERSION_CHECK = 1
SOURCES := pyproject.toml setup.py CMakeLists.txt $(shell find csrc -type f)

# By its whole path: PATH below begins with the venv's own folder, which holds a python3 too.
override PYTHON := $(or $(shell command -v $(PYTHON)),$(PYTHON))

ifeq ($(VENV),system)
# A venv without pip of its own that sees every package of the interpreter it starts from, whether that is a system python
# (perhaps managed by the distribution, perhaps owned by root) or itself a venv.
HOME_DIR := build/venv-system
export PATH := $(shell $(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("scripts"))'):$(PATH)
else
HOME_DIR := $(VENV)
endif
PY    := $(HOME_DIR)/bin/python
COMMA := ,
READY := $(HOME_DIR)/.ready-$(subst $(COMMA),-,$(EXTRAS))
export PATH := $(abspath $(HOME_DIR))/bin:$(PATH)

.DELETE_ON_ERROR:
.PHONY: help setup demo test sanitize lint bench clean distclean
help:
	@echo "make demo | test | sanitize | lint | bench | setup | clean | distclean    (variables: see the top of Makefile)"

setup: $(READY)

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "ebm_fast needs python >= 3.10, $(PYTHON) is older: make PYTHON=python3.11 ..." >&2; exit 1; }
ifeq ($(VENV),system)
	@$(PYTHON) -c 'import importlib.util as u, sys; \
	  lacks = [n for n in ("torch", "pip", "setuptools", "pybind11", "pytest") if u.find_spec(n) is None]; \
	  lacks and sys.exit(f"VENV=system uses {sys.executable} as it is, and it lacks {lacks}: install them or leave VENV out")'
	$(PYTHON) -m venv --without-pip $(HOME_DIR)
	$(PYTHON) -c 'import sys; [print(f"import site; site.addsitedir({p!r})") for p in sys.path if p.endswith("-packages")]' \
	  > $(HOME_DIR)/parent.txt
	mv $(HOME_DIR)/parent.txt "$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/parent.pth"
else
	$(PYTHON) -m venv $(HOME_DIR) || { rm -rf $(HOME_DIR); echo "needs python3's venv module (Debian: apt install python3-venv)" >&2; exit 1; }
endif

# Built without isolation: the compiler cache then outlives the installation, and a second one takes seconds.
$(READY): $(SOURCES) | $(PY)
ifeq ($(VENV),system)
	$(PY) -m pip install --no-index --no-deps --no-build-isolation -e .
else
	$(PY) -m pip install $(PIP_ARGS) "setuptools>=68" wheel "pybind11>=2.12" "cmake>=3.24" ninja
	$(PY) -m pip install $(PIP_ARGS) --no-build-isolation "$(TORCH_SPEC)" -e ".[$(EXTRAS)]"
endif
	@touch $@

# Threads that wait for each other spin; beside other jobs on the same cores that can cost ten times the work itself.
demo test: export GOMP_SPINCOUNT ?= 30000

demo: $(READY)
	$(HOME_DIR)/bin/ebm-fast demo $(ARGS)

# Without a GPU to share, files of tests are dealt out to as many processes as there are cores, where pytest-xdist is at hand.
DEALT = $(if $(filter cpu,$(DEVICE)),$(shell $(PY) -c 'import xdist; print("-n auto --maxprocesses 8 --no-loadscope-reorder")' 2>/dev/null))
test: $(READY)
	$(PY) -m pytest --device $(DEVICE) $(DEALT) $(ARGS)

# The CUDA kernels' own source on the CPU, every access to memory looked at. (C++17 leaves the shift of a negative number
# undefined, which the compilers that are used define.)
sanitize: $(READY)
	EBM_FAST_EMULATION_FLAGS="-fsanitize=address,undefined -fno-sanitize=shift -fno-sanitize-recover" \
	ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0:alloc_dealloc_mismatch=0 \
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	  $(abspath $(PY)) -m pytest -s python_tests/kernels -k "cuda_on_cpu" $(ARGS)

lint: $(READY)
	ruff check .
	mypy
	find csrc -type f | xargs clang-format --dry-run -Werror

bench: $(READY)
	$(PY) -m pytest benchmarks --device $(DEVICE) --benchmark-columns=median,iqr,rounds --benchmark-sort=name $(ARGS)

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks *.egg-info ebm_fast/_C*.so $(HOME_DIR)/.ready-*
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv runs
