"""Modules whose ``forward`` is a plain sequence of calls: read once, and run with parts fused.

A torchvision block, ``out = self.relu(self.bn1(self.conv1(x)))`` and so on, says only in Python
which norm follows which convolution. torch.fx records such a ``forward`` by running it. What it
records holds for every later call only where nothing else decides what happens, so ``forward`` is
read beforehand, and anything but the statements in :class:`Reader` leaves the module as it is.
"""

import ast
import builtins
import inspect
import operator
import textwrap
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from fastseg.inference.conv_modules import Conv, activation_of, own_activation
from fastseg.inference.fused_conv import FusedConv, Settings, has_hooks

ADDITIONS = (operator.add, operator.iadd, torch.add)
ACTIVATIONS: dict[Any, str] = {
    **dict.fromkeys((functional.relu, torch.relu, torch.relu_, functional.relu_), "relu"),
    functional.relu6: "relu6",
}
SIMPLE = (int, float, bool, str, type(None))


class Unreadable(Exception):
    """``forward`` holds something that a record of one run may get wrong."""


class Reader(ast.NodeVisitor):
    """Accepts assignments, additions, calls of children and of torch's functions, loops over
    children, and conditions on an attribute being None; notes the attributes that it reads."""

    ALLOWED = (
        *(ast.Module, ast.FunctionDef, ast.arguments, ast.arg, ast.Return, ast.Expr, ast.Assign),
        *(ast.AugAssign, ast.AnnAssign, ast.If, ast.For, ast.Call, ast.keyword, ast.Name),
        *(ast.Attribute, ast.Constant, ast.Tuple, ast.List, ast.BinOp, ast.Add, ast.Mult, ast.Sub),
        *(ast.Load, ast.Store, ast.Subscript, ast.Slice, ast.UnaryOp, ast.USub, ast.Dict),
    )

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.functions: set[Callable[..., Any]] = set()
        self.attributes: dict[str, Any] = {}

    def read(self, function: Callable[..., Any]) -> None:
        if function in self.functions:
            return
        self.functions.add(function)
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        except (OSError, TypeError, SyntaxError) as error:
            raise Unreadable("no source") from error
        (definition,) = tree.body
        if not isinstance(definition, ast.FunctionDef) or definition.decorator_list:
            raise Unreadable("a decorated function")
        if function.__closure__:
            raise Unreadable("a closure")
        self.globals = function.__globals__
        self.this = definition.args.args[0].arg
        self.loops: set[str] = set()
        self.locals = {argument.arg for argument in definition.args.args}
        for node in ast.walk(definition):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                self.locals.add(node.id)
        for statement in definition.body:
            self.visit(statement)

    def generic_visit(self, node: ast.AST) -> None:
        if not isinstance(node, self.ALLOWED):
            raise Unreadable(type(node).__name__)
        super().generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        """Only the branch that is taken is read; the attribute that decides is watched."""
        test = node.test
        if not (
            isinstance(test, ast.Compare)
            and isinstance(test.left, ast.Attribute)
            and self.is_self(test.left.value)
            and isinstance(test.ops[0], ast.Is | ast.IsNot)
            and isinstance(test.comparators[0], ast.Constant)
            and test.comparators[0].value is None
        ):
            raise Unreadable("a condition")
        decisive = test.left
        self.visit(decisive)
        is_none = self.value(decisive) is None
        taken = node.body if is_none == isinstance(test.ops[0], ast.Is) else node.orelse
        for statement in taken:
            self.visit(statement)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.visit(node.target)
        if node.value is not None:
            self.visit(node.value)

    def visit_For(self, node: ast.For) -> None:
        target = node.iter
        if not isinstance(target, ast.Attribute) or not self.is_self(target.value):
            raise Unreadable("a loop")
        if not isinstance(self.value(target), nn.ModuleList | nn.Sequential):
            raise Unreadable("a loop over other than children")
        if isinstance(node.target, ast.Name):
            self.loops.add(node.target.id)
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if self.is_self(node.value):
            value = self.value(node)
            if isinstance(node.ctx, ast.Store):
                raise Unreadable("an attribute that is set")
            if isinstance(value, SIMPLE) and node.attr != "training":
                self.attributes[node.attr] = value
            elif not isinstance(value, nn.Module | Tensor):
                raise Unreadable(f"the attribute {node.attr}")
            return
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if node.id == self.this:
            raise Unreadable("the module itself")
        if node.id not in self.locals and self.resolve(node) is None:
            raise Unreadable("a value from elsewhere")

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        if isinstance(function, ast.Attribute) and self.is_self(function.value):
            value = self.value(function)
            if inspect.ismethod(value) and value.__self__ is self.module:
                outer = self.globals, self.this, self.locals, self.loops
                self.read(value.__func__)
                self.globals, self.this, self.locals, self.loops = outer
            elif not isinstance(value, nn.Module):
                raise Unreadable(f"a call of {function.attr}")
        elif isinstance(function, ast.Attribute):
            owner = self.resolve(function.value)
            if not (owner is None or owner in (torch, functional)):
                raise Unreadable("a call")
            names = [n for argument in node.args for n in ast.walk(argument)]
            if owner is not None and not any(isinstance(n, ast.Name) for n in names):
                raise Unreadable("a call that depends on no value")
            self.visit(function.value)  # a method of a value, or a function of torch
        elif not isinstance(function, ast.Name) or function.id not in self.loops:
            raise Unreadable("a call of a function that is not torch's")
        for argument in [*node.args, *node.keywords]:
            self.visit(argument)

    def resolve(self, node: ast.expr) -> ModuleType | None:
        """The module that an expression names; None for a value."""
        if isinstance(node, ast.Name):
            found = self.globals.get(node.id)
            return found if isinstance(found, ModuleType) else None
        if isinstance(node, ast.Attribute):
            owner = self.resolve(node.value)
            found = getattr(owner, node.attr, None)
            return found if isinstance(found, ModuleType) else None
        return None

    def is_self(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Name) and node.id == self.this

    def value(self, node: ast.Attribute) -> Any:
        try:
            return getattr(self.module, node.attr)
        except AttributeError as error:
            raise Unreadable(f"no attribute {node.attr}") from error


class Value(NamedTuple):
    """The result of the call of that number."""

    number: int


class Call(NamedTuple):
    """A node of the record, free of torch.fx so that it can be copied and pickled."""

    number: int
    op: str
    target: str  # child, attribute, method or function
    owner: str  # of a function: a key of FUNCTIONS
    arguments: Any
    named: Any


FUNCTIONS: dict[str, Any] = {
    "operator": operator,
    "torch": torch,
    "functional": functional,
    "builtins": builtins,
}


class Step(NamedTuple):
    """One call, or a fused run of them."""

    calls: list[Call]
    conv: FusedConv | None
    input: int
    residual: int | None
    activation: str
    finished: list[int]  # values that no later step reads


class ChildTracer(fx.Tracer):
    """Records calls of children and does not look into them."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


class StraightLine:
    """The record of a module's ``forward`` with its runs of convolution, norm, sum and ReLU fused.

    Raises:
        Unreadable: ``forward`` is not a plain sequence of calls, or nothing in it can be fused.
    """

    def __init__(
        self,
        module: nn.Module,
        settings: Settings,
        is_conv: Callable[[nn.Module | None], TypeGuard[Conv]],
        foldable: Callable[[Conv, nn.Module | None], nn.BatchNorm2d | None],
    ) -> None:
        signature = list(inspect.signature(module.forward).parameters.values())
        if len(signature) != 1 or signature[0].kind != inspect.Parameter.POSITIONAL_OR_KEYWORD:
            raise Unreadable("several arguments")
        if signature[0].default is not inspect.Parameter.empty:
            raise Unreadable("an argument with a default")
        reader = Reader(module)
        reader.read(type(module).forward)
        self.attributes = reader.attributes
        before = set(vars(module))
        try:
            graph = ChildTracer().trace(module)
        except Exception as error:
            raise Unreadable("torch.fx cannot trace it") from error
        finally:
            for name in set(vars(module)) - before:  # torch.fx keeps constants there
                delattr(module, name)
        self.modules = children_of(module, graph)
        runs = fused_runs(graph, self.modules, settings, is_conv, foldable)
        if not any(len(run.nodes) > 1 for run in runs):
            raise Unreadable("nothing to fuse")
        self.steps = steps_of(graph, runs)

    def holds(self, module: nn.Module) -> bool:
        """Whether the children and attributes are those of the record."""
        for path, known in self.modules.items():
            owner: nn.Module | None = module
            for name in path.split("."):
                owner = None if owner is None else owner._modules.get(name)
            if owner is not known:
                return False
        return all(getattr(module, name, self) == v for name, v in self.attributes.items())

    def run(self, module: nn.Module, input: Tensor) -> Any:
        values: dict[int, Any] = {}
        output = None
        for step in self.steps:
            call = step.calls[-1]
            if call.op == "placeholder":
                values[call.number] = input
            elif call.op == "output":
                output = with_values(call.arguments[0], values)
            else:
                values[call.number] = self.compute(step, module, values)
            for index in step.finished:
                values.pop(index, None)
        return output

    def compute(self, step: Step, module: nn.Module, values: dict[int, Any]) -> Any:
        if step.conv is not None:
            followers = [self.modules.get(call.target) for call in step.calls[1:]]
            if not any(follower is not None and has_hooks(follower) for follower in followers):
                residual = None if step.residual is None else values[step.residual]
                output = step.conv(values[step.input], residual, step.activation)
                if output is not None:
                    return output
        for call in step.calls:
            values[call.number] = self.make(call, module, values)
        return values.pop(step.calls[-1].number)

    def make(self, call: Call, module: nn.Module, values: dict[int, Any]) -> Any:
        arguments, named = with_values(call.arguments, values), with_values(call.named, values)
        if call.op == "call_module":
            return self.modules[call.target](*arguments, **named)
        if call.op == "get_attr":
            return operator.attrgetter(call.target)(module)
        if call.op == "call_method":
            owner, *rest = arguments
            return getattr(owner, call.target)(*rest, **named)
        return getattr(FUNCTIONS[call.owner], call.target)(*arguments, **named)


def with_values(arguments: Any, values: dict[int, Any]) -> Any:
    """Arguments with results in the place of their numbers."""
    if isinstance(arguments, Value):
        return values[arguments.number]
    if isinstance(arguments, tuple | list):
        return type(arguments)(with_values(argument, values) for argument in arguments)
    if isinstance(arguments, dict):
        return {name: with_values(argument, values) for name, argument in arguments.items()}
    if isinstance(arguments, slice):
        parts = (arguments.start, arguments.stop, arguments.step)
        return slice(*(with_values(part, values) for part in parts))
    return arguments


def children_of(module: nn.Module, graph: fx.Graph) -> dict[str, nn.Module]:
    paths = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    return {path: module.get_submodule(path) for path in paths}


class Run(NamedTuple):
    """Nodes of which each is the only user of the one before."""

    nodes: list[fx.Node]
    conv: FusedConv
    residual: fx.Node | None
    activation: str


def fused_runs(
    graph: fx.Graph,
    modules: dict[str, nn.Module],
    settings: Settings,
    is_conv: Callable[[nn.Module | None], TypeGuard[Conv]],
    foldable: Callable[[Conv, nn.Module | None], nn.BatchNorm2d | None],
) -> list[Run]:
    order, runs = list(graph.nodes), []
    for node in order:
        conv = child(node, modules)
        if not is_conv(conv) or not one_argument(node):
            continue
        own = own_activation(conv)
        longer, residual = [node], None
        following = only_user(node)
        norm = foldable(conv, child(following, modules)) if one_argument(following) else None
        if following is not None and norm is not None:
            longer = [*longer, following]
        fused = FusedConv(conv, norm, settings)
        run = Run(longer, fused, None, own)
        following = only_user(longer[-1])
        other = added(following, longer[-1]) if own == "none" else None
        if following is not None and other is not None:
            longer, residual = [*longer, following], other
            following = only_user(following)
            if safe_to_delay(order, longer, residual, modules):
                run = Run(longer, fused, residual, own)
            else:
                following = None
        if own == "none" and (activation := activation_at(following, modules)) is not None:
            longer = [*longer, following]
            if safe_to_delay(order, longer, residual, modules):
                run = Run(longer, fused, residual, activation)
        if safe_to_delay(order, run.nodes, run.residual, modules):
            runs.append(run)
    return runs


def safe_to_delay(
    order: list[fx.Node],
    run: list[fx.Node],
    residual: fx.Node | None,
    modules: dict[str, nn.Module],
) -> bool:
    """Whether nothing writes to what the run reads between its first node and its last."""
    read = {run[0].args[0], residual}
    between = order[order.index(run[0]) : order.index(run[-1])]
    others = [node for node in between if node not in run]
    return not any(may_write(node, modules) and read & {*node.all_input_nodes} for node in others)


def steps_of(graph: fx.Graph, runs: list[Run]) -> list[Step]:
    """Every node in its order; a fused run at the place of its last."""
    number = {node: index for index, node in enumerate(graph.nodes)}
    by_last = {run.nodes[-1]: run for run in runs}
    inside = {node for run in runs for node in run.nodes}
    steps: list[Step] = []
    for node in graph.nodes:
        if (run := by_last.get(node)) is not None:
            calls = [call_of(part, number) for part in run.nodes]
            source, residual = number[run.nodes[0].args[0]], run.residual
            other = None if residual is None else number[residual]
            steps.append(Step(calls, run.conv, source, other, run.activation, []))
        elif node not in inside:
            steps.append(Step([call_of(node, number)], None, -1, None, "none", []))
    nodes = list(graph.nodes)
    last: dict[int, int] = {}
    for place, step in enumerate(steps):
        for call in step.calls:
            last.update({number[n]: place for n in nodes[call.number].all_input_nodes})
    for index, place in last.items():
        steps[place].finished.append(index)
    return steps


def call_of(node: fx.Node, number: dict[fx.Node, int]) -> Call:
    owner, target = "", node.target
    if node.op == "call_function":
        name = getattr(target, "__name__", "")
        owners = [key for key, place in FUNCTIONS.items() if getattr(place, name, None) is target]
        if not owners:
            raise Unreadable(f"the function {name}")
        owner, target = owners[0], name
    elif node.op == "get_attr" and str(target).startswith("_tensor_constant"):
        raise Unreadable("a constant made by the call")
    to_value = partial(fx.node.map_arg, fn=lambda source: Value(number[source]))
    return Call(
        number[node],
        node.op,
        str(target),
        owner,
        plain(to_value(node.args)),
        plain(to_value(node.kwargs)),
    )


def plain(arguments: Any) -> Any:
    """Python's own containers for those of torch.fx."""
    if isinstance(arguments, Value):
        return arguments
    if isinstance(arguments, tuple):
        return tuple(map(plain, arguments))
    if isinstance(arguments, list):
        return list(map(plain, arguments))
    if isinstance(arguments, dict):
        return {name: plain(argument) for name, argument in arguments.items()}
    return arguments


def child(node: fx.Node | None, modules: dict[str, nn.Module]) -> nn.Module | None:
    if node is None or node.op != "call_module":
        return None
    return modules[str(node.target)]


def one_argument(node: fx.Node | None) -> bool:
    return (
        node is not None
        and len(node.args) == 1
        and not node.kwargs
        and isinstance(node.args[0], fx.Node)
    )


def only_user(node: fx.Node | None) -> fx.Node | None:
    return next(iter(node.users)) if node is not None and len(node.users) == 1 else None


def added(node: fx.Node | None, value: fx.Node) -> fx.Node | None:
    """What ``node`` adds to ``value``; None where it is no plain addition of two values."""
    if node is None or node.kwargs or len(node.args) != 2:
        return None
    names = ("add", "add_") if node.op == "call_method" else ADDITIONS
    if node.op not in ("call_method", "call_function") or node.target not in names:
        return None
    first, second = node.args
    if not isinstance(first, fx.Node) or not isinstance(second, fx.Node) or first is second:
        return None
    writes = node.target in (operator.iadd, "add_")
    if writes and first is not value:
        return None  # the other value is written, and others may read it
    return second if first is value else first


def activation_at(node: fx.Node | None, modules: dict[str, nn.Module]) -> str | None:
    """The name of what a node does, where it is an activation that kernels know."""
    if node is None or len(node.args) != 1:
        return None
    module = child(node, modules)
    if module is not None:
        return activation_of(module) if one_argument(node) else None
    if node.op == "call_method":
        return "relu" if node.target in ("relu", "relu_") and not node.kwargs else None
    known = node.op == "call_function" and set(node.kwargs) <= {"inplace"}
    return ACTIVATIONS.get(node.target) if known else None


def may_write(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether a call might change what it is given."""
    module = child(node, modules)
    if module is not None:
        return any(getattr(part, "inplace", False) for part in module.modules())
    if node.op == "call_method":
        return str(node.target).endswith("_")
    name = getattr(node.target, "__name__", "")
    in_place = name.startswith("i") and getattr(operator, name, None) is node.target
    return in_place or name.endswith("_") or bool(node.kwargs.get("inplace"))
