"""iDDPM's and ADM's networks beside PyTorch ones with the same random weights, converted."""

import jax
import jax.numpy as jnp
import numpy as np
import peer
import pytest

from marble.convert import adm
from marble.convert.names import check, tensors_of
from marble.convert.tensors import Tensor, held
from marble.models.adm import log_prob

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

from convert.adm_reference import Classifier, Plan, UNet  # noqa: E402

SMALL = Plan(channels=16, mult=(1, 2), depth=1, attending=(1,), out=3, groups=8, heads=2)
PLANS = {
    "iddpm": (SMALL, 24, 24),
    "one head, added embedding": (Plan(16, (1, 2), 2, (0,), 6, 4, heads=1, ada=False), 8, 12),
    "adm": (Plan(16, (1, 1, 3), 2, (1, 2), 6, 8, head_channels=8, updown=True, classes=5), 24, 24),
    "qkv first": (Plan(16, (1, 2), 1, (0, 1), 3, 8, heads=4, legacy=False, updown=True, classes=3), 8, 8),
    "one head of 8": (Plan(8, (1,), 1, (0,), 3, 4, head_channels=8, ada=False, updown=True), 6, 6),
    "half the channels": (Plan(32, (0.5, 1, 1.5), 1, (2,), 3, 8, head_channels=16, legacy=False), 24, 16),
    "upsampler": (Plan(16, (1, 2), 1, (1,), 6, 8, heads=4, updown=True, classes=4, low_res=True), 24, 24),
    "upsampler of iddpm": (Plan(16, (2, 1), 1, (0,), 3, 8, heads=2, low_res=True), 12, 8),
}
LOW_RES_SIDES = (5, 3)


def inputs_of(plan, height, width):
    draw = np.random.default_rng(0)
    x_t = draw.standard_normal((2, height, width, plan.colours)).astype(np.float32)
    context = {}
    if plan.classes:
        context["label"] = np.array([0, plan.classes - 1])
    if plan.low_res:
        context["low_res"] = draw.standard_normal((2, *LOW_RES_SIDES, plan.colours)).astype(np.float32)
    return x_t, np.float32([3.25, 871]), context


def read(module, plan, height):
    """Our model and parameters of a module's file, read as a user's would be."""
    arrays = peer.arrays_of(module)
    given = dict(num_heads=plan.heads, head_channels=plan.head_channels, heads_first=plan.legacy)
    found = adm.model_of(held(arrays), image_size=height, reads_low_res=plan.low_res, **given)
    assert found.image_size == height and found.image_channels == plan.colours and not found.assumed
    model = found.model.clone(num_groups=plan.groups)
    return model, adm.table(model, height), arrays


def pair(name):
    plan, height, width = PLANS[name]
    torch.manual_seed(0)
    theirs = peer.shaken(UNet(plan))
    with torch.no_grad():
        for weight in theirs.input_blocks[0].parameters():
            weight.mul_(5e-3)  # the first norm then divides by deviations at which its epsilon counts
    model, table, arrays = read(theirs, plan, height)
    x_t, t, context = inputs_of(plan, height, width)
    shapes = peer.shapes_of(model, x_t, t, context)
    params = peer.converted(table, arrays, shapes)
    return theirs, model, params, (x_t, t, context)


def asked(theirs, x_t, t, context):
    """Their answer, and their image, of which a gradient can be taken."""
    image = peer.nchw(x_t).requires_grad_()
    label, low_res = (context.get(key) for key in ("label", "low_res"))
    told = None if label is None else torch.tensor(label), None if low_res is None else peer.nchw(low_res)
    return theirs(image, torch.tensor(t), *told), image


@pytest.mark.parametrize("name", PLANS)
def test_the_same_weights_give_the_same_answer(name):
    theirs, model, params, inputs = pair(name)
    peer.assert_near(peer.run(model, params, *inputs), peer.nhwc(asked(theirs, *inputs)[0]))


@pytest.mark.parametrize("name", ["one head, added embedding", "qkv first", "upsampler"])
def test_and_in_bfloat16_as_near_as_theirs(name):
    theirs, model, params, inputs = pair(name)
    exact = peer.nhwc(asked(theirs, *inputs)[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = peer.nhwc(asked(theirs, *inputs)[0].float())
    answer = peer.run(peer.in_bfloat16(model), params, *inputs)
    assert answer.dtype == jnp.float32
    peer.assert_near_in_bfloat16(answer, rounded, exact)


def near_gradients(ours, theirs, module, table):
    """Of parameters, by their names, and of the image: each within a share of the largest of its array."""
    ours_params, ours_image = ours
    by_name = dict(tensors_of(table, ours_params))
    largest = max(float(weight.grad.abs().max()) for weight in module.parameters())
    for name, weight in module.named_parameters():
        assert np.abs(by_name[name] - weight.grad.numpy()).max() <= 1e-4 * largest, name
    assert set(by_name) == {name for name, _ in module.named_parameters()} and largest > 1e-3
    peer.assert_near(ours_image, peer.nhwc(theirs))


@pytest.mark.parametrize("name", ["one head, added embedding", "qkv first", "upsampler"])
def test_and_the_same_gradients(name):
    theirs, model, params, (x_t, t, context) = pair(name)
    answer, image = asked(theirs, x_t, t, context)
    along = np.random.default_rng(1).standard_normal(peer.nhwc(answer).shape).astype(np.float32)
    (answer * peer.nchw(along)).sum().backward()

    def loss(params, x_t):
        return (model.apply({"params": params}, x_t, t, context) * along).sum()

    ours = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, jnp.asarray(x_t))
    near_gradients(ours, image.grad, theirs, adm.table(model, x_t.shape[1]))


@pytest.mark.parametrize(("updown", "legacy"), [(True, True), (False, False)])
def test_a_classifier_and_its_gradient(updown, legacy):
    plan = Plan(16, (1, 2, 2), 2, (1, 2), 7, 8, head_channels=8, updown=updown, legacy=legacy)
    torch.manual_seed(0)
    theirs = peer.shaken(Classifier(plan, 24))
    model, table, arrays = read(theirs, plan, 24)
    x, t, _ = inputs_of(plan, 24, 24)
    params = peer.converted(table, arrays, peer.shapes_of(model, x, t))
    image, label = peer.nchw(x).requires_grad_(), np.array([6, 2])
    logits = theirs(image, torch.tensor(t))
    peer.assert_near(peer.run(model, params, x, t), logits.detach())
    if legacy:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = theirs(image, torch.tensor(t)).detach().float()
        peer.assert_near_in_bfloat16(peer.run(peer.in_bfloat16(model), params, x, t), rounded, logits.detach())
    (-torch.nn.functional.cross_entropy(logits, torch.tensor(label), reduction="sum")).backward()

    def guide(params, x):
        return log_prob(model.apply({"params": params}, x, t), label).sum()

    ours = jax.jit(jax.grad(guide, argnums=(0, 1)))(params, jnp.asarray(x))
    near_gradients(ours, image.grad, theirs, table)


LARGE = {
    "lsun_uncond_100M_1200K_bs128.pt": Plan(128, (1, 1, 2, 2, 4, 4), 2, (4,), 6, 32, heads=1, ada=False),
    "upsample_cond_500K.pt": Plan(192, (1, 1, 2, 2, 4, 4), 2, (4, 5), 6, 32, heads=4, classes=1000, low_res=True),
    "256x256_diffusion_uncond.pt": Plan(256, (1, 1, 2, 2, 4, 4), 2, (3, 4, 5), 6, 32, head_channels=64, updown=True),
    "512x512_diffusion.pt": Plan(256, (0.5, 1, 1, 2, 2, 4, 4), 2, (4, 5, 6), 6, 32, updown=True, classes=1000, heads=4),
    "128_512_upsampler.pt": Plan(
        192, (1, 1, 2, 2, 4, 4), 2, (4, 5), 6, 32, heads=4, updown=True, classes=1000, low_res=True
    ),
    "512x512_classifier.pt": Plan(128, (0.5, 1, 1, 2, 2, 4, 4), 2, (4, 5, 6), 1000, 32, head_channels=64, updown=True),
}


@pytest.mark.parametrize("file", LARGE)
def test_published_names_and_shapes_are_those_of_their_plan(file):
    with torch.device("meta"):
        theirs = Classifier(LARGE[file], 512) if "classifier" in file else UNet(LARGE[file])
    tensors = {name: Tensor(tuple(a.shape), np.dtype(np.float32), None) for name, a in theirs.state_dict().items()}
    found = adm.model_of(tensors)
    assert file in found.published.files and found.model == found.published.model
    check(adm.table(found.model, found.image_size), tensors, adm.shapes_of(found.model, found.image_size), source=file)
