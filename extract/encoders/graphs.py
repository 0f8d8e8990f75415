"""Networks as graphs of torch's own operators, for one picture size: traced, made leaner, and run on fused kernels.

A trace holds whatever the network does, be it written in Python or TorchScript. On CPUs convolutions then run on
oneDNN's fused kernels, with weights laid out once: padding, convolution, residual sum and activation are one pass over
memory. The kernels are those that torch.compile's CPU backend calls; no compiler is needed, and nothing warms up.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

aten, mkldnn = torch.ops.aten, torch.ops.mkldnn

_ATTENTION = aten._scaled_dot_product_flash_attention_for_cpu.default
_PRODUCTS = {
    aten.convolution.default: 3,
    aten.addmm.default: 3,
    aten.mm.default: 2,
    aten.bmm.default: 2,
    aten.baddbmm.default: 3,
    _ATTENTION: 3,
}
"""Operators that half precision is for, with the number of their tensors. All others take what they are given."""

_BROADCASTING = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)

_ACTIVATIONS: dict[Any, Callable[[fx.Node], tuple[str, list[float]] | None]] = {
    aten.relu.default: lambda node: ("relu", []),
    aten.sigmoid.default: lambda node: ("sigmoid", []),
    aten.silu.default: lambda node: ("swish", []),
    aten.hardswish.default: lambda node: ("hardswish", []),
    aten.hardsigmoid.default: lambda node: ("hardsigmoid", []),
    aten.hardtanh.default: lambda node: ("hardtanh", _bounds(node, (-1.0, 1.0))),
    aten.clamp.default: lambda node: ("hardtanh", bounds) if len(bounds := _bounds(node, ())) == 2 else None,
}
"""What a convolution's kernel can do with its result, under oneDNN's names."""


_NUMBERS = itertools.count()
_TYPICAL_BATCH = 16


class CannotTrace(Exception):
    """The network does something that a graph cannot hold: it looks at values, or treats batch sizes differently."""


def capture(network: Callable[[Tensor], Tensor], example: Tensor, *, scripted: bool = False) -> fx.GraphModule:
    """The operators that ``network`` runs on inputs of one size, for any number of inputs.

    It is traced with two inputs and with three. Numbers that go with the batch are replaced by its size; if the traces
    differ otherwise, the network cannot be held by a graph.

    Args:
        network: in evaluation mode; Python or TorchScript.
        example: [3, ...] inputs of the size and layout that will come.
        scripted: the network is TorchScript, whose interpreter wants real numbers; Python is traced without computing.

    Raises:
        CannotTrace: see the class.
    """
    traced = make_fx(
        torch.func.functionalize(lambda x: network(x)),
        tracing_mode="real" if scripted else "fake",
        _allow_non_fake_inputs=not scripted,
    )
    try:
        with torch.no_grad():
            small, large = (traced(example[:count].clone()) for count in (2, 3))
    except Exception as error:  # the network's own code may raise anything while it is looked at
        raise CannotTrace(f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[-1]}") from error
    nodes, others = list(small.graph.nodes), list(large.graph.nodes)
    if [_kind(node) for node in nodes] != [_kind(node) for node in others]:
        raise CannotTrace("two and three inputs are treated differently")
    with small.graph.inserting_after(nodes[0]):
        count = small.graph.call_function(aten.sym_size.int, (nodes[0], 0))
    last = [count]

    def merged(a: Any, b: Any) -> Any:
        if isinstance(a, (list, tuple)):
            if len(a) != len(b):
                raise CannotTrace("two and three inputs are treated differently")
            return type(a)(merged(x, y) for x, y in zip(a, b, strict=True))
        if isinstance(a, fx.Node) or a == b:
            return a
        if not isinstance(a, int) or a % 2 or b != a // 2 * 3:
            raise CannotTrace(f"a number is {a} for two inputs and {b} for three")
        if a == 2:
            return count
        with small.graph.inserting_after(last[0]):
            last[0] = small.graph.call_function(operator.mul, (count, a // 2))
        return last[0]

    for node, other in zip(nodes, others, strict=True):
        node.args = merged(node.args, other.args)
        node.kwargs = {key: merged(value, other.kwargs[key]) for key, value in node.kwargs.items()}
    _drop_expansions(small)
    _fold_constants(small)
    _join_paddings(small)
    return _cleaned(small)


def halve(graph: fx.GraphModule, dtype: torch.dtype) -> bool:
    """Let every product (convolutions, linear layers, attention) be computed in ``dtype``, in place.

    Returns:
        False when there is none, and the graph is as it was.
    """
    found = False
    for node in list(graph.graph.nodes):
        count = _PRODUCTS.get(node.target)
        if count is None:
            continue
        found = True
        arguments = list(node.args)
        for index, argument in enumerate(arguments[:count]):
            if isinstance(argument, fx.Node):
                arguments[index] = _cast(graph, node, argument, dtype)
        node.args = tuple(arguments)
        if isinstance(mask := node.kwargs.get("attn_mask"), fx.Node):
            node.kwargs = {**node.kwargs, "attn_mask": _cast(graph, node, mask, dtype)}
    if found:
        _fold_constants(graph)
    return found


def fuse(graph: fx.GraphModule) -> fx.GraphModule:
    """Put every convolution with constant weights on oneDNN's fused kernels; CPU only, in place."""
    for node in list(graph.graph.nodes):
        if node.target is aten.convolution.default and not node.args[6]:
            weight, bias = _constant(graph, node.args[1]), _constant(graph, node.args[2])
            if weight is not None and (bias is not None or node.args[2] is None):
                _fuse_one(graph, node, weight, bias)
    return _cleaned(graph)


def drop_idle_casts(graph: fx.GraphModule, example: Tensor) -> fx.GraphModule:
    """Remove conversions to the type that a tensor has already, in place; the types are observed in one run.

    Seen in the same run, and left as ``graph.meta["largest_bytes"]``: the largest tensor per input.
    """
    types: dict[fx.Node, torch.dtype] = {}
    sizes = [1]

    class Observer(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if isinstance(result, Tensor):
                types[n] = result.dtype
                if n.op == "call_function":
                    sizes.append(result.nbytes // len(example))
            return result

    with torch.inference_mode():
        Observer(graph).run(example)
    graph.meta["largest_bytes"] = max(sizes)
    for node in list(graph.graph.nodes):
        if node.meta.get("cast") and types[node.args[0]] == types[node]:
            node.replace_all_uses_with(node.args[0])
    return _cleaned(graph)


def _kind(node: fx.Node) -> Any:
    return node.target if node.op == "call_function" else node.op


def _bounds(node: fx.Node, default: tuple[float, ...]) -> list[float]:
    given = [value for value in node.args[1:] if isinstance(value, (int, float))]
    return [float(value) for value in given] if len(given) == 2 else list(default)


def _shape(node: Any) -> torch.Size | None:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return value.shape if isinstance(value, Tensor) else None


def _constant(graph: fx.GraphModule, node: Any) -> Tensor | None:
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    value = operator.attrgetter(str(node.target))(graph)
    return value.detach() if isinstance(value, Tensor) else None


def _add_constant(graph: fx.GraphModule, before: fx.Node, value: Tensor) -> fx.Node:
    name = f"_folded{next(_NUMBERS)}"
    if value.is_mkldnn:  # laid out for the kernel: cannot be moved or copied, so it is no buffer
        setattr(graph, name, value)
    else:
        graph.register_buffer(name, value.detach())
    with graph.graph.inserting_before(before):
        return graph.graph.create_node("get_attr", name)


def _cast(graph: fx.GraphModule, before: fx.Node, node: fx.Node, dtype: torch.dtype) -> fx.Node:
    with graph.graph.inserting_before(before):
        converted = graph.graph.call_function(aten._to_copy.default, (node,), {"dtype": dtype})
    converted.meta["cast"] = True
    converted.meta["val"] = node.meta.get("val")  # its shape counts
    return converted


def _cleaned(graph: fx.GraphModule) -> fx.GraphModule:
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    used = {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    for name in [*graph._buffers, *graph._parameters, *[name for name in vars(graph) if name.startswith("_folded")]]:
        if name not in used:
            delattr(graph, name)
    graph.recompile()
    return graph


def _drop_expansions(graph: fx.GraphModule) -> None:
    # arithmetic broadcasts by itself
    for node in list(graph.graph.nodes):
        if node.target is not aten.expand.default:
            continue
        for user in list(node.users):
            others = [x for x in user.args if x is not node]
            if user.target in _BROADCASTING and len(others) == 1 and _shape(others[0]) == _shape(node):
                user.replace_input_with(node, node.args[0])


def _fold_constants(graph: fx.GraphModule) -> None:
    """Compute once what depends on constants only."""
    values: dict[fx.Node, Tensor] = {}
    for node in list(graph.graph.nodes):
        inputs = node.all_input_nodes
        if node.op != "call_function" or not inputs or not isinstance(node.target, torch._ops.OpOverload):
            continue
        held = {each: values.get(each, _constant(graph, each)) for each in inputs}
        if any(value is None for value in held.values()) or node.target.is_view is None:
            continue
        if torch.Tag.nondeterministic_seeded in node.target.tags:
            continue
        with torch.no_grad():
            result = node.target(
                *fx.node.map_arg(node.args, held.__getitem__), **fx.node.map_arg(node.kwargs, held.__getitem__)
            )
        if isinstance(result, Tensor):
            values[node] = result
    for node, value in values.items():
        if any(user not in values for user in node.users):
            node.replace_all_uses_with(_add_constant(graph, node, value.contiguous()))


def _join_paddings(graph: fx.GraphModule) -> None:
    """Let convolutions do the zero padding before them.

    The kernels pad both sides alike. What one side has more becomes zeros before the first weights.
    """
    for node in graph.graph.nodes:
        if node.target is not aten.convolution.default or node.args[6]:
            continue
        source, weight, bias, stride, padding, dilation, *rest = cast(tuple[Any, ...], node.args)
        if not isinstance(source, fx.Node) or source.target is not aten.constant_pad_nd.default:
            continue
        amounts = list(cast(Any, source.args[1]))
        value = source.args[2] if len(source.args) > 2 else 0
        weights = _constant(graph, weight)
        if value != 0 or len(amounts) != 2 * len(stride) or weights is None or min(amounts) < 0:
            continue
        before, after = amounts[0::2][::-1], amounts[1::2][::-1]
        more = [b - a for a, b in zip(before, after, strict=True)]
        if any(extra < 0 or (extra and step != 1) for extra, step in zip(more, dilation, strict=True)):
            continue
        if any(more):
            extended = functional.pad(weights, [amount for extra in reversed(more) for amount in (extra, 0)])
            weight = _add_constant(graph, node, extended)
        padding = [own + added for own, added in zip(padding, after, strict=True)]
        node.args = (source.args[0], weight, bias, stride, padding, dilation, *rest)


def _fuse_one(graph: fx.GraphModule, node: fx.Node, weight: Tensor, bias: Tensor | None) -> None:
    source, _, _, stride, padding, dilation, _, _, groups = cast(tuple[Any, ...], node.args)
    position = {each: index for index, each in enumerate(graph.graph.nodes)}
    last, other = node, cast("fx.Node | None", None)
    if len(node.users) == 1 and (adding := next(iter(node.users))).target is aten.add.Tensor and not adding.kwargs:
        found = [x for x in adding.args if isinstance(x, fx.Node) and x is not node]
        # the sum happens where the convolution stands: the other term must be there already
        if found and _shape(found[0]) == _shape(node) and position[found[0]] < position[node]:
            last, other = adding, found[0]
    name, scalars = "none", list[float]()
    if len(last.users) == 1 and (user := next(iter(last.users))).target in _ACTIVATIONS:
        activation = _ACTIVATIONS[user.target](user)
        if activation and (other is None or activation[0] == "relu"):
            (name, scalars), last = activation, user
    size = _shape(source)
    # the best layout depends on the size of the maps, hardly on their number
    typical = None if size is None else [_TYPICAL_BATCH, *size[1:]]
    packed = mkldnn._reorder_convolution_weight(weight.contiguous(), padding, stride, dilation, groups, typical)
    weights = _add_constant(graph, node, packed)
    biases = None if bias is None else _add_constant(graph, node, bias)
    arguments: tuple[Any, ...] = (weights, biases, padding, stride, dilation, groups)
    if other is None:
        target, arguments = mkldnn._convolution_pointwise.default, (source, *arguments, name, scalars, "")
    else:
        unary = None if name == "none" else name
        other = _cast(graph, node, other, weight.dtype)
        target = mkldnn._convolution_pointwise.binary
        arguments = (source, other, *arguments, "add", 1.0, unary, scalars, "")
    with graph.graph.inserting_before(node):
        fused = graph.graph.call_function(target, arguments)
    fused.meta["val"] = last.meta.get("val")
    last.replace_all_uses_with(fused)
    for each in {last, node}:
        each.meta.pop("val", None)
