PYTHON ?= python3
BIN = .venv/bin

.PHONY: train test lint wheel docs pictures tables study audit-published
train: .venv/ready  ## train on real data, test, and say where to look
	$(BIN)/torchbp fit --config configs/breast_cancer.yaml
	$(BIN)/torchbp test --config configs/breast_cancer.yaml --ckpt_path best
	@echo "to look at the run: $(BIN)/tensorboard --logdir logs/breast_cancer"

test: .venv/ready  ## prove the gradients, and everything else
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses auto --dist worksteal

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Finds files that the package lacks: the environment has only the wheel, and PYTHONPATH adds .venv's other packages.
wheel: .venv/ready  ## build the package, install it in its own environment, train with it
	rm -rf build/dist build/wheel
	$(BIN)/python -m build --outdir build/dist
	$(BIN)/python -m venv --without-pip build/wheel
	$(BIN)/pip --python build/wheel install --quiet --no-deps build/dist/*.whl
	cd build/wheel && bin/python -I -c 'import torchbp'
	cd build/wheel && PYTHONPATH=`$(abspath $(BIN))/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'` sh -ec '\
		bin/torchbp fit --config $(CURDIR)/configs/xor.yaml --trainer.max_epochs 2; \
		bin/torchbp gradcheck --explain vmap > explained'

docs: .venv/ready  ## build the documentation in build/docs; needs Python 3.11
	$(BIN)/python -m sphinx -b html -q -W --keep-going docs build/docs
	@echo "the documentation: build/docs/index.html"

pictures: .venv/ready  ## draw the gallery's pictures anew, from runs of its configurations
	OMP_NUM_THREADS=1 $(BIN)/python docs/pictures.py

tables: .venv/ready  ## audit every derivative, and write the tables of docs/what_passes.md
	$(BIN)/python tests/table_of_checks.py

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
