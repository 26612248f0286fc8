"""The published autograd Functions of the study that belong to a solver, an adjoint or a reversible block."""

from typing import Any

import torch
from functions import Case, leaf, named, x
from published import normal
from torch import Tensor, nn

Setup = tuple[Any, tuple[Any, ...]]


def positive(a: Tensor) -> Tensor:
    return a @ a.mT + 2 * torch.eye(len(a), dtype=a.dtype, device=a.device)


def operator(name: str, **options: Any) -> Any:
    """A method of linear_operator on ``a a^T + 2`` and a right-hand side."""

    def build() -> Setup:
        to_linear_operator = named("linear_operator:to_linear_operator")
        return lambda a, right: getattr(to_linear_operator(positive(a)), name)(right, **options), (x(3, 3), x(3, 2))

    return build


def sqrt_inv_matmul(a: Tensor, right: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(positive(a))
    return (vectors / values.sqrt()) @ vectors.mT @ right


class Field(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3, dtype=torch.float64) / 3)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(y @ self.weight)


def torchdiffeq_adjoint() -> Setup:
    solve, field, times = named("torchdiffeq:odeint_adjoint"), Field(), torch.tensor([0.0, 0.5], dtype=torch.float64)
    return lambda y: solve(field, y, times, rtol=1e-10, atol=1e-12), (x(2, 3),)


def torchsde_adjoint() -> Setup:
    torchsde = __import__("torchsde")

    class Equation(nn.Module):
        noise_type, sde_type = "diagonal", "stratonovich"

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

        def f(self, t: Tensor, y: Tensor) -> Tensor:
            return torch.sin(y * self.weight)

        def g(self, t: Tensor, y: Tensor) -> Tensor:
            return torch.full_like(y, 0.1)

    equation, times = Equation(), torch.tensor([0.0, 0.5], dtype=torch.float64)

    def solve(y: Tensor) -> Tensor:
        path = torchsde.BrownianInterval(0.0, 0.5, y.shape, dtype=y.dtype, entropy=1234, levy_area_approximation="none")
        return torchsde.sdeint_adjoint(equation, y, times, bm=path, dt=0.05, method="midpoint")

    return solve, (x(2, 3),)


def zuko_odeint() -> Setup:
    odeint = named("zuko.utils:odeint")
    times = torch.tensor([0.2, 0.9], dtype=torch.float64)
    return lambda y, t0, t1: odeint(lambda t, y: torch.sin(y) + t, y, t0, t1, atol=1e-10, rtol=1e-10), (x(3), *map(leaf, times))


def zuko_bisection() -> Setup:
    bisection = named("zuko.utils:bisection")
    return lambda y: bisection(lambda v: v + v**3, y, -9.0, 9.0, n=60), (x(3),)


def linear_tanh(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, width), nn.Tanh()).double()


def memcnn_additive() -> Setup:
    coupling = named("memcnn.models.additive:AdditiveCoupling")
    f, g = (nn.Sequential(nn.Conv1d(1, 1, 1), nn.Tanh()).double() for _ in range(2))
    return coupling(f, g, implementation_fwd=0, implementation_bwd=0), (x(2, 2, 3),)


def revtorch() -> Setup:
    block, sequence = named("revtorch:ReversibleBlock"), named("revtorch:ReversibleSequence")
    blocks = nn.ModuleList([block(linear_tanh(3), linear_tanh(3), split_along_dim=1)])
    return sequence(blocks, eagerly_discard_variables=False), (x(2, 6),)


def reversible(package: str, width: int) -> Any:
    def build() -> Setup:
        blocks = nn.ModuleList([nn.ModuleList([linear_tanh(width), linear_tanh(width)])])
        return named(f"{package}.reversible:ReversibleSequence")(blocks), (x(1, 2, 8),)

    return build


def pot(grad: str) -> Any:
    def build() -> Setup:
        solve = named("ot:solve")
        a, b = torch.full((3,), 1 / 3, dtype=torch.float64), torch.full((4,), 1 / 4, dtype=torch.float64)
        return lambda cost: solve(cost, a, b, reg=0.5, grad=grad).value, (leaf(torch.rand(3, 4).double()),)

    return build


def pot_sqrtm() -> Setup:
    backend = named("ot.backend:TorchBackend")()
    return lambda a: backend.sqrtm(positive(a)), (x(3, 3),)


def xitorch_solve() -> Setup:
    solve, matrix = named("xitorch.linalg:solve"), named("xitorch:LinearOperator").m
    return lambda a, right: solve(matrix(positive(a), is_hermitian=True), right), (x(3, 3), x(3, 2))


def xitorch_symeig() -> Setup:
    symeig, matrix = named("xitorch.linalg:symeig"), named("xitorch:LinearOperator").m
    return lambda a: symeig(matrix(positive(a), is_hermitian=True))[0], (x(3, 3),)


def xitorch_ivp() -> Setup:
    solve, times = named("xitorch.integrate:solve_ivp"), torch.linspace(0, 1, 41, dtype=torch.float64)
    return lambda y, a: solve(lambda t, y, a: torch.sin(y * a), times, y, params=(a,), method="rk4"), (x(3), x(3))


def torchopt_moment() -> Setup:
    return named("torchopt.accelerated_op.adam_op:AdamOp").MuOp, (x(3), x(3), 0.9)


def natural() -> Setup:
    a = normal(3, 3)
    function = named("gpytorch.variational.natural_variational_distribution:_NaturalToMuVarSqrt")
    return function, (x(3), leaf(-(a @ a.mT + torch.eye(3, dtype=torch.float64)) / 2))


# In lower precision zuko's adaptive solver never reaches its tolerance and does not end.
FLOAT64 = {"backward", "repeated backward", "tensors unchanged", "double backward", "gradient penalty", "checkpoint"}

SOLVERS = {
    "linear_operator SqrtInvMatmul": Case("linear_operator", operator("sqrt_inv_matmul"), sqrt_inv_matmul),
    "linear_operator InvQuad": Case(
        "linear_operator", operator("inv_quad"), lambda a, r: (r * torch.linalg.solve(positive(a), r)).sum()
    ),
    "linear_operator Solve": Case("linear_operator", operator("solve"), lambda a, r: torch.linalg.solve(positive(a), r)),
    "linear_operator Matmul": Case("linear_operator", operator("matmul"), lambda a, r: positive(a) @ r),
    "linear_operator InvQuadLogdet": Case("linear_operator", operator("inv_quad_logdet", logdet=True)),
    "gpytorch _NaturalToMuVarSqrt": Case("gpytorch", natural, surrogate=True),
    "torchdiffeq OdeintAdjointMethod": Case("torchdiffeq", torchdiffeq_adjoint),
    "torchsde _SdeintAdjointMethod": Case("torchsde", torchsde_adjoint),
    "zuko AdaptiveCheckpointAdjoint": Case("zuko", zuko_odeint, only=FLOAT64),
    "zuko Bisection": Case("zuko", zuko_bisection),
    "memcnn AdditiveBlockFunction": Case("memcnn", memcnn_additive),
    "revtorch _ReversibleModuleFunction": Case("revtorch", revtorch),
    "reformer_pytorch _ReversibleFunction": Case("reformer_pytorch", reversible("reformer_pytorch", 4)),
    "performer_pytorch _ReversibleFunction": Case("performer_pytorch", reversible("performer_pytorch", 8)),
    "POT ValFunction, envelope": Case("POT", pot("envelope")),
    "POT ValFunction, autodiff": Case("POT", pot("autodiff")),
    "POT MatrixSqrtFunction": Case("POT", pot_sqrtm),
    "xitorch solve_torchfcn": Case("xitorch", xitorch_solve, lambda a, r: torch.linalg.solve(positive(a), r)),
    "xitorch symeig_torchfcn": Case("xitorch", xitorch_symeig, lambda a: torch.linalg.eigvalsh(positive(a))),
    "xitorch _SolveIVP": Case("xitorch", xitorch_ivp),
    "torchopt MuOp": Case("torchopt", torchopt_moment, lambda u, m, b: b * m + (1 - b) * u),
}
