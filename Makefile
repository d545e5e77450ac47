# One environment for all commands. Uses .venv if there is one, else an activated environment, else makes .venv.
PYTHON ?= python3
VENV := $(if $(wildcard .venv/bin/python),.venv,$(or $(VIRTUAL_ENV),.venv))
PY := $(VENV)/bin/python
STAMP := $(VENV)/.dasp-installed

.PHONY: help explain picture test short-test long-test report-test ray-test mlflow-test lint docs newcomer bench paper audit clean

help:
	@echo "make explain   train a small CNN on the handwritten digits, explain 100 images, print measured errors"
	@echo "make test      ruff, strict types and tests"
	@echo "make long-test what make test shows, at full size and on more variants"
	@echo "make report-test  report pages in Chromium, which must be installed (DASP_CHROMIUM names it, if not on the path)"
	@echo "make ray-test  whole data sets on Ray, which it installs: the same files, though a worker is lost"
	@echo "make mlflow-test  a result, its figure and its explainer in a local MLflow store; installs mlflow-skinny"
	@echo "make lint      ruff and strict types only"
	@echo "make docs      run the pages of the documentation, build it into out/site, and check every link"
	@echo "make newcomer  the five tasks of its first page, each in a clean environment, with the time to a picture"
	@echo "make bench     measure every method on the data of the paper, and put the figures into README.md"
	@echo "make paper     run the three experiments of the paper, and write docs/paper.md from what they measured"
	@echo "make audit     look the pinned packages up in PyPI's advisories; a package that cannot be looked up is an error"
	@echo "make picture   draw the pictures in README.md and docs/plots.md"

$(STAMP): pyproject.toml constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet -c constraints.txt setuptools
	$(PY) -m pip install --quiet -c constraints.txt --no-build-isolation -e '.[dev]'
	touch $@

explain: $(STAMP)
	$(PY) examples/digits.py

picture: $(STAMP)
	$(PY) examples/digits.py --picture docs/digits.png
	$(PY) examples/plots.py

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m mypy

# Types are checked beside the first tests: alone they would keep one core waiting.
test: $(STAMP)
	$(MAKE) --jobs=2 lint short-test

short-test: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not long"

long-test: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m long tests

report-test: $(STAMP)
	$(PY) -m pip install --quiet -c constraints.txt --no-build-isolation -e '.[browser]'
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -s tests/test_report_browser.py

ray-test: $(STAMP)
	$(PY) -m pip install --quiet -c constraints.txt --no-build-isolation -e '.[ray]'
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -p no:xdist tests/test_batch_ray.py

mlflow-test: $(STAMP)
	$(PY) -m pip install --quiet -c constraints.txt --no-build-isolation -e '.[mlflow]'
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -p no:xdist tests/test_pretrained.py -k mlflow

docs: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) website/pages.py --check
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict
	$(PY) website/links.py out/site

newcomer: $(STAMP)
	$(PY) benchmarks/newcomer.py

bench: $(STAMP)
	$(VENV)/bin/dasp reproduce parkinson mnist
	$(PY) benchmarks/cost.py
	$(PY) benchmarks/readme.py

paper: $(STAMP)
	$(VENV)/bin/dasp reproduce all
	$(PY) benchmarks/closure.py
	$(PY) benchmarks/paper.py

audit: $(STAMP)
	$(PY) -m pip install --quiet -c constraints.txt pip-audit
	$(PY) -m pip_audit --strict --disable-pip --no-deps -r constraints.txt

clean:
	rm -rf out build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
