"""What bad settings, checkpoints and outputs get from the command line: one line, and everything as it was."""

from pathlib import Path

import pytest
from bad_files import check_refused
from training_runs import CONFIGS

# What it is called with, its exit status, and a telling part of its line.
CASES = [
    # the model
    ("XOR --model.lr 0", 1, "lr is 0.0; it must be a finite number above 0"),
    ("XOR --model.lr 1e39", 1, "lr is 1e+39; it must be a finite number above 0 and below 3.4e38"),
    ("XOR --model.lr ''", 2, "model.lr is empty; it must be float"),
    ("XOR --model.lr fast", 2, "model.lr is fast; it must be float"),
    ("XOR --model.lrr 1", 2, "unrecognized arguments: --model.lrr 1"),
    ("XOR --model.momentum 0.9", 2, "unrecognized arguments: --model.momentum 0.9"),
    ("XOR --model.hidden_sizes '[0]'", 1, "layer_sizes is [2, 0, 1]; it must be two or more positive integers"),
    ("XOR --model.hidden_sizes '[100000000000]'", 1, "hidden_sizes is [100000000000], so that layer_sizes is [2, 100000000000"),
    (f"XOR --model.hidden_sizes '[{10**30}]'", 1, "1]; its 4e+30 parameters do not fit memory"),
    ("XOR --model.hidden_sizes 16", 2, "model.hidden_sizes is 16; it must be list"),
    ("XOR --model.hidden_sizes '[2.5]'", 2, "model.hidden_sizes is 2.5; it must be int"),
    ("XOR --model.cost hinge", 2, "model.cost is hinge; it must be one of 'cross_entropy', 'squared_error'"),
    ("XOR --model.engine warp", 2, "model.engine is warp; it must be one of 'autograd', 'fused'"),
    ("XOR --model.num_features 3", 2, "must be given via"),
    ("XOR --model.lr_scheduler Nope", 2, "model.lr_scheduler is Nope; it must be a scheduler of torch.optim.lr_scheduler"),
    ("XOR --model.lr_scheduler torch.nn.Linear", 2, "model.lr_scheduler is torch.nn.Linear; it must be a scheduler of torch"),
    ("XOR --model.lr_scheduler StepLR", 2, "arguments are required: step_size"),
    (
        "XOR --model.lr_scheduler StepLR --model.lr_scheduler.step_size 0",
        1,
        "lr_scheduler StepLR(step_size=0, gamma=0.1) cannot be used: integer modulo by zero",
    ),
    (
        "XOR --model.lr_scheduler ExponentialLR --model.lr_scheduler.gamma -1",
        1,
        "lr_scheduler ExponentialLR(gamma=-1.0) makes the learning rate -5; it must be a finite number, 0 or more",
    ),
    ("XOR --model.lr_scheduler OneCycleLR --model.lr_scheduler.max_lr 1", 1, "lr_scheduler cannot be used: You must define"),
    ("XOR --model.steps_per_execution 3", 1, "steps_per_execution is 3; it must be 1 or more, and is for engine: fused only"),
    ("FUSED --model.steps_per_execution 0", 1, "steps_per_execution is 0; it must be 1 or more"),
    ("FUSED --trainer.gradient_clip_val 1", 1, "gradient_clip_val is 1; engine: fused cannot do that, take engine: autograd"),
    ("FUSED --trainer.accumulate_grad_batches 2", 1, "accumulate_grad_batches is 2; engine: fused cannot do that"),
    ("FUSED --trainer.precision bf16-mixed", 1, "precision is bf16-mixed; engine: fused cannot do that"),
    ("FUSED --trainer.precision 16-mixed", 1, "precision is 16-mixed; engine: fused cannot do that, take engine: autograd"),
    ("FUSED --model.cuda_graph true --trainer.accelerator cpu", 1, "cuda_graph is True; it needs one process and a network on"),
    # the trainer
    ("XOR --trainer.devices 0", 1, "devices='0'"),
    ("XOR --trainer.devices two", 1, "`devices` selected with `CPUAccelerator` should be an int > 0"),
    ("XOR --trainer.accelerator tpu", 1, "torch_xla"),
    ("XOR --trainer.accelerator quantum", 1, "accelerator='quantum'`. Available names are: auto, "),
    ("XOR --trainer.strategy nope", 1, "strategy='nope'"),
    ("XOR --trainer.strategy ddp_fork", 1, "strategy is ddp_fork; several processes are trained in with ddp"),
    ("XOR --trainer.max_epochs -2", 1, "`max_epochs` must be a non-negative integer or -1. You passed in -2"),
    ("XOR --trainer.max_epochs 1.5", 2, "trainer.max_epochs is 1.5; it must be int"),
    ("XOR --trainer.max_epochs 0", 1, "max_epochs is 0; it must be above 0, or -1 for no limit"),
    ("XOR --trainer.max_steps 0", 1, "max_steps is 0; it must be above 0, or -1 for no limit"),
    ("XOR --trainer.gradient_clip_val -1", 1, "gradient_clip_val is -1; it must be 0 or more"),
    ("XOR --trainer.log_every_n_steps -1", 1, "log_every_n_steps is -1; it must be 0 or more"),
    ("XOR --trainer.accumulate_grad_batches -1", 1, "accumulate_grad_batches is -1; it must be above 0"),
    ("XOR --trainer.accumulate_grad_batches 0", 1, "accumulate_grad_batches is 0; it must be above 0"),
    ("XOR --trainer.check_val_every_n_epoch 0", 1, "check_val_every_n_epoch is 0; it must be above 0"),
    ("XOR --trainer.limit_train_batches -1", 1, "limit_train_batches is -1; it must be above 0"),
    ("XOR --trainer.limit_train_batches 0", 1, "limit_train_batches is 0; it must be above 0"),
    ("XOR --trainer.limit_train_batches 0.5", 1, "Please increase the `limit_train_batches` argument"),
    ("test --ckpt_path table.ckpt --trainer.limit_test_batches 0", 1, "limit_test_batches is 0; it must be above 0"),
    ("validate --ckpt_path table.ckpt --trainer.limit_val_batches 0", 1, "limit_val_batches is 0; it must be above 0"),
    ("PREDICT good.csv --output o.csv --trainer.limit_predict_batches 0", 1, "limit_predict_batches is 0; it must be above 0"),
    ("XOR --trainer.logger nope", 2, "trainer.logger is nope; it must be a class's name"),
    ("XOR --patience 0", 2, "patience is 0; it must be a whole number above 0"),
    ("XOR --seed_everything x", 2, "seed_everything is x; it must be bool or int"),
    ("XOR --seed_everything -1", 1, "-1 is not in bounds, numpy accepts from 0 to 4294967295"),
    # checkpoints
    ("test --ckpt_path gone.ckpt", 1, "the checkpoint gone.ckpt does not exist"),
    (
        "test --ckpt_path half.ckpt",
        1,
        "half.ckpt is damaged or no checkpoint of torchbp: it cannot be read as tensors and plain",
    ),
    ("test --ckpt_path text.ckpt", 1, "text.ckpt is damaged or no checkpoint of torchbp"),
    (
        "test --ckpt_path foreign.ckpt",
        1,
        "foreign.ckpt is no checkpoint of torchbp; one has a state_dict with network.layers.0",
    ),
    ("test --ckpt_path loops.ckpt", 1, "loops.ckpt is no checkpoint of torchbp; its loops is 3, no dict"),
    ("test --ckpt_path nan.ckpt", 1, "nan.ckpt is damaged: its network.layers.0.bias holds "),
    ("fit --ckpt_path nan.ckpt", 1, "nan.ckpt is damaged: its network.layers.0.bias holds "),
    ("predict --ckpt_path nan.ckpt --output o.csv", 1, "nan.ckpt is damaged: its network.layers.0.bias holds "),
    ("export --ckpt_path nan.ckpt --output o.pt2", 1, "nan.ckpt is damaged: its network.layers.0.bias holds "),
    ("fit --ckpt_path stateless.ckpt", 1, "the checkpoint has no optimizer_states; with its network alone one can test"),
    ("fit --ckpt_path network.ckpt", 2, "network.ckpt does not say what data it was trained on; say --data.path FILE, or"),
    ("test --ckpt_path sizes.ckpt", 1, "is damaged or another version's: model.hidden_sizes is many; it must be list"),
    ("test --ckpt_path more.ckpt", 1, "the checkpoint is of another network: its more has shape (2,), here it is None"),
    ("predict --ckpt_path evil.ckpt --output o.csv", 1, "evil.ckpt is damaged or no checkpoint of torchbp"),
    ("fit --ckpt_path pickle.ckpt", 1, "pickle.ckpt is damaged or no checkpoint of torchbp"),
    ("export --ckpt_path evil.ckpt --output o.pt2", 1, "evil.ckpt is damaged or no checkpoint of torchbp"),
    ("fit --ckpt_path shapes.ckpt", 1, "another network: its network.layers.0.weight has shape (2, 2), here it is (16, 4)"),
    ("export --ckpt_path shapes.ckpt --output o.pt2", 1, "network: its network.layers.0.weight has shape (2, 2), here it is"),
    ("test --ckpt_path columns.ckpt", 1, "what the checkpoint holds of a TabularDataModule is damaged or another version's"),
    ("test --ckpt_path class.ckpt", 2, "os.system does not correspond to a subclass of LightningDataModule"),
    (f"test --config {CONFIGS / 'moons.yaml'} --ckpt_path arrays.ckpt", 1, "its num_features is 3, here it is 2"),
    ("XOR --ckpt_path xor.ckpt --model.hidden_sizes '[7]'", 1, "hidden_sizes is [7]; a checkpoint goes on as it was trained"),
    ("test --ckpt_path table.ckpt --data.target city", 1, "the checkpoint's target is 'bought', here it is 'city'"),
    ("test --ckpt_path table.ckpt --data.task regression", 1, "the checkpoint's task is binary, here it is regression"),
    ("test --ckpt_path table.ckpt --data.path rare.csv", 1, "'bought' holds 'maybe' in row 41; the classes are 'no', 'yes'"),
    ("validate --ckpt_path table.ckpt --data.path blind.csv", 1, "blind.csv has no column 'bought'; it has 'age', 'city'"),
    (
        "validate --ckpt_path table.ckpt --data.test_size 0.3 --data.val_size 0",
        1,
        "no row is held out to validate on; there must be some, or another file to validate",
    ),
    ("test --ckpt_path arrays.ckpt --data.path narrow.npz", 1, "x has shape (40, 2); the network takes 3 values a row"),
    ("test --ckpt_path arrays.ckpt --data.path classes.npz", 1, "y holds 4 in row 0; the classes are 0, 1"),
    # predictions and exported programs
    ("PREDICT gone.csv --output o.csv", 1, "the data file gone.csv does not exist"),
    ("PREDICT other.csv --output o.csv", 1, "other.csv has no column 'age'; it has 'a', 'b'"),
    ("PREDICT words.csv --output o.parquet", 1, "the numeric column 'age' holds 'old' in row 41; only numbers are allowed"),
    (
        "predict --ckpt_path arrays.ckpt --data.path nan.npz --output o.csv",
        1,
        "x holds nan in row 0, column 1; all values must",
    ),
    (
        "PREDICT good.csv --output good.csv",
        1,
        "output is good.csv; it must be another file than the data's, which would be lost",
    ),
    ("PREDICT blind.csv --data.val_path good.csv --output good.csv", 1, "it must be another file than the data's, which would"),
    ("PREDICT ./good.parquet --output good.parquet", 1, "output is good.parquet; it must be another file than the data's"),
    ("PREDICT blind.csv --output o.xlsx", 1, "o.xlsx has the extension '.xlsx'; it must be one of .csv, .tsv, .parquet, or -"),
    ("PREDICT blind.csv --output nowhere/o.csv", 1, "nowhere/o.csv cannot be written: No such file or directory"),
    ("PREDICT blind.csv --output nowhere/o.parquet", 1, "nowhere/o.parquet cannot be written: No such file or directory"),
    (f"PREDICT good.csv --output {'o' * 245}.parquet", 1, f"error: {'o' * 245}.parquet cannot be written: File name too long"),
    ("PREDICT blind.csv --output folder.csv", 1, "folder.csv is a folder; a file can be written"),
    ("PREDICT blind.csv --trainer.devices 2", 1, "predictions are written by one process, not 2; say --trainer.devices 1"),
    ("export --ckpt_path table.ckpt", 2, "arguments are required: --output"),
    ("export --ckpt_path table.ckpt --output o.h5", 1, "o.h5 has the extension '.h5'; it must be one of .onnx, .pt2"),
    ("export --ckpt_path table.ckpt --output nowhere/o.pt2", 1, "nowhere/o.pt2 cannot be written: No such file or directory"),
    # one iteration, the audit, the benchmark
    ("trace --x 0,1", 2, "arguments are required: --y"),
    ("trace --x a --y 1", 1, "x is 'a'; it must be numbers such as 0,1, or '0,1; 1,1' for several samples"),
    ("trace --x nan --y 1", 1, "x is 'nan'; its numbers must be finite"),
    ("trace --x 0,1 --y 2", 1, "y reaches from 2 to 2; for cross-entropy it must lie in [0, 1]"),
    ("trace --x 0,1 --y 1 --lr -1", 1, "lr is -1; it must be a positive number"),
    ("trace --x 0,1 --y 1 --seed -1", 2, "seed is -1; it must be from 0 to 4294967295"),
    ("trace --x 0,1 --y 1 --markdown nowhere/a.md", 1, "nowhere/a.md cannot be written: No such file or directory"),
    ("trace --x 0,1 --y 1 --markdown ''", 1, ". is a folder; a file can be written"),
    ("trace --x 0,1 --y 1 --hidden_sizes '[100000000000]'", 1, "layer_sizes is [2, 100000000000, 1]; its 4e+11 parameters do"),
    ("trace --data.path gone.csv --data.target y", 1, "the data file gone.csv does not exist"),
    ("gradcheck --device abacus", 2, "'abacus'"),
    ("gradcheck --function relu", 1, "function is 'relu'; it must be package.module:Function or one of linear"),
    ("gradcheck --function nowhere:Function --inputs 2", 1, "'nowhere' cannot be imported"),
    ("gradcheck --function planted_faults:WrongSign", 1, "needs inputs: shapes such as '4,3 2,3 2'"),
    ("gradcheck --function planted_faults:WrongSign --inputs two", 1, "inputs is 'two'"),
    ("gradcheck --function planted_faults:WrongSign --inputs 99999999999999999999", 1, "inputs is '99999999999999999999'; it"),
    ("gradcheck --inputs 4,3", 1, "inputs and reference are for a function of your own"),
    ("gradcheck --only backwards", 1, "only has backwards; the checks are autocast, backward, "),
    ("benchmark --threads 0", 2, "threads is 0; it must be 1 or more"),
    ("benchmark --only speed", 2, "invalid choice: 'speed'"),
    ("benchmark --plot steps.csv", 2, "--plot is 'steps.csv'; it must be a file whose name ends in .png"),
    ("benchmark --plot nowhere/steps.png", 2, "--plot is nowhere/steps.png; its folder does not exist"),
]


@pytest.mark.parametrize(("call", "status", "message"), CASES, ids=[call.replace(str(CONFIGS), "") for call, *_ in CASES])
def test_one_line_and_nothing_lost(
    bad_files: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], call: str, status: int, message: str
) -> None:
    monkeypatch.chdir(bad_files)
    check_refused(capfd, call, status, message)


def test_there_are_many() -> None:
    assert len(CASES) >= 60
    assert len({call for call, *_ in CASES}) == len(CASES)
