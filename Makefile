PYTHON ?= python3
BIN = .venv/bin

.PHONY: train test lint tables study audit-published
train: .venv/ready  ## train on real data, test, and say where to look
	$(BIN)/torchbp fit --config configs/breast_cancer.yaml
	$(BIN)/torchbp test --config configs/breast_cancer.yaml --ckpt_path best
	@echo "to look at the run: $(BIN)/tensorboard --logdir logs/breast_cancer"

test: .venv/ready  ## prove the gradients, and everything else
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

tables: .venv/ready  ## audit every derivative, and write README's tables of what passed
	$(BIN)/python tests/readme_tables.py

study: .venv-study/ready  ## show the faults of published autograd Functions, without the audit
	OMP_NUM_THREADS=1 .venv-study/bin/python -m pytest tests/published

audit-published: .venv-study/ready  ## audit the published Functions of docs/published.md
	OMP_NUM_THREADS=1 .venv-study/bin/python -W ignore tests/published/audit_functions.py

.venv-study/ready: tests/published/requirements.txt constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv-study
	.venv-study/bin/pip install --quiet --constraint constraints.txt torch pytest rich tqdm scikit-learn pandas matplotlib PyYAML jsonargparse sympy
	.venv-study/bin/pip install --quiet --no-deps --requirement tests/published/requirements.txt --editable .
	touch $@

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
