"""Each check accepts a right answer and refuses wrong ones, each with a sentence of its own."""

import math

import pytest
import torch

from support import check

RIGHT, WRONG = {}, {}


def answers(name):
    """Collect the answers of an exercise: the first is right, the others are wrong."""

    def keep(make):
        right, *wrong = make()
        RIGHT[name], WRONG[name] = right, wrong
        return make

    return keep


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


@answers("knn")
def _():
    def found(features, models, k, scale=unit, own=False, own_model=False, ascending=False):
        x = scale(features)
        similarity = x @ x.T
        same = torch.tensor([[a == b for b in models] for a in models])
        barred = torch.eye(len(x), dtype=torch.bool) if own_model else same
        similarity = similarity if own else similarity.masked_fill(barred, math.inf if ascending else -math.inf)
        return similarity.argsort(dim=1, descending=not ascending)[:, :k]

    return [
        found,
        lambda *a: found(*a, own=True),
        lambda *a: found(*a, own_model=True),
        lambda *a: found(*a, scale=lambda x: x),
        lambda *a: found(*a).flip(1),
    ]


@answers("sdf_lower_bound")
def _():
    def bound(u, D, z, sign=1.0, scale=1.0):
        return z * D * scale / (1 + (u.norm(dim=-1) + sign * D) ** 2).sqrt()

    def printed(u, D, z):
        v = (1 + D / u.norm(dim=-1))[:, None] * u
        a, c = (torch.cat([x, torch.ones_like(x[:, :1])], -1) for x in (u, v))
        return z * (a - (a * c).sum(-1, keepdim=True) / (c * c).sum(-1, keepdim=True) * c).norm(dim=-1)

    return [
        bound,
        printed,
        lambda u, D, z: z * D,
        lambda u, D, z: bound(u, D, z, sign=-1.0),
        lambda u, D, z: bound(u, D, z, scale=64.0),
        lambda u, D, z: bound(u, D, z, scale=0.9),
    ]


@answers("bound_loss")
def _():
    def loss(f, b, D, over=torch.sum, sign=1.0, weighted=True):
        w = torch.where(D > 0, 1 / torch.where(D > 0, D, 1.0), 0.0)
        w = w if weighted else (D > 0).float()
        return (w * over((sign * (b - f)).clamp(min=0), dim=-1)).sum() / w.sum()

    def inside(f, b, D):
        return ((1 / D) * (b - f).clamp(min=0).sum(-1)).sum() / (1 / D).sum()

    def counted(f, b, D):
        w = 1 / D.clamp(min=0.5)
        return (w * (b - f).clamp(min=0).sum(-1)).sum() / w[D > 0].sum()

    return [
        loss,
        lambda *a: loss(*a, over=torch.mean),
        lambda *a: loss(*a, sign=-1.0),
        lambda *a: loss(*a, weighted=False),
        inside,
        counted,
    ]


@answers("laplace_density")
def _():
    def density(sdf, beta):
        tail = 0.5 * torch.exp(-sdf.abs() / beta)
        return torch.where(sdf > 0, tail, 1 - tail) / beta

    def careless(sdf, beta):
        outside, inside = 0.5 * torch.exp(-sdf / beta), 1 - 0.5 * torch.exp(sdf / beta)
        return torch.where(sdf > 0, outside, inside) / beta

    return [
        density,
        lambda s, b: density(s, b) * b,
        lambda s, b: density(-s, b),
        careless,
        lambda s, b: torch.sigmoid(-s / b) / b,
        lambda s, b: density(s, b) * 2,
    ]


@answers("weights")
def _():
    def composite(density, depths, last=0.0, inclusive=False, alpha=lambda x: 1 - torch.exp(-x)):
        ends = torch.full_like(depths[:, :1], last)
        optical = density * torch.cat([depths.diff(dim=-1), ends], dim=-1)
        before = optical.cumsum(dim=-1) - (0 if inclusive else optical)
        return torch.exp(-before) * alpha(optical)

    return [
        composite,
        lambda s, z: composite(s, z, inclusive=True),
        lambda s, z: composite(s, z, last=1e10),
        lambda s, z: composite(s, z).sum(dim=-1),
        lambda s, z: composite(s, z) + composite(s, z).roll(1, -1) - composite(s, z).roll(2, -1) * (s.shape[0] > 1),
        lambda s, z: composite(s, z).flip(-1) if len(s) > 1 else composite(s, z),
    ]


@answers("soft_iou")
def _():
    def iou(a, b, union=lambda a, b: a + b - a * b, both=torch.mul, start=1e-6):
        return (both(a, b).sum(-1) + start) / (union(a, b).sum(-1) + start)

    return [
        iou,
        lambda a, b: iou(a, b, union=torch.add),
        lambda a, b: iou(a.flatten(), b.flatten()),
        lambda a, b: iou(a, b, start=0.0),
        lambda a, b: iou(a, b, union=torch.maximum, both=torch.minimum),
        lambda a, b: 1 - iou(a, b),
    ]


@answers("ssc")
def _():
    def rendered(shape, texture, viewpoint, order=(0, 1, 2)):
        def answer(encode, render, query, neighbor):
            parts = {"q": encode(query), "n": encode(neighbor)}
            inputs = (parts[shape][0], parts[texture][1], parts[viewpoint][2])
            return render(*(inputs[k] for k in order))

        return answer

    return [
        rendered("q", "n", "n"),
        rendered("n", "n", "n"),
        rendered("q", "q", "n"),
        rendered("q", "n", "q"),
        rendered("q", "n", "n", order=(0, 2, 1)),
        lambda encode, render, query, neighbor: encode(query),
    ]


@answers("neighbor_weights")
def _():
    def probabilities(mask, others, power=4, least=1e-3, below=None, prefer=lambda iou: 1 - iou, scale=None):
        both = (mask * others).sum(-1)
        iou = both / (mask.sum() + others.sum(-1) - both if below is None else below(mask, others))
        preference = prefer(iou).clamp(min=least) ** power
        return preference / preference.sum() if scale is None else scale(preference)

    return [
        probabilities,
        lambda m, o: probabilities(m, o, prefer=lambda iou: iou),
        lambda m, o: probabilities(m, o, power=1),
        lambda m, o: probabilities(m, o, scale=lambda p: p),
        lambda m, o: probabilities(m, o, scale=lambda p: p.softmax(-1)),
        lambda m, o: probabilities(m, o, below=lambda mask, others: mask.sum()),
        lambda m, o: probabilities(m, o, least=0.0),
        lambda m, o: probabilities(m, o)[None],
    ]


@answers("normal_loss")
def _():
    def loss(rendered, estimated, rotation, keep, turn=lambda n, r: n @ r, mean=False, ranked="batch"):
        target = turn(estimated, rotation)
        cos = 1 - (rendered * target).sum(-1)
        difference = (rendered - target).abs()
        error = 5 * (difference.mean(-1) if mean else difference.sum(-1)) + cos
        if ranked == "batch":
            return error.flatten()[cos.flatten().argsort()[: int(keep * cos.numel())]].mean()
        order = cos.argsort(dim=1)[:, : int(keep * cos.shape[1])]
        return error.gather(1, order).mean()

    return [
        loss,
        lambda *a: loss(*a, mean=True),
        lambda *a: loss(*a, turn=lambda n, r: n @ r.mT),
        lambda *a: loss(*a, ranked="image"),
        lambda *a: loss(*a) + 1,
        lambda *a: loss(*a) * (1 if len(a[0]) == 1 else 2),
    ]


@answers("azimuth_prior")
def _():
    def prior(pairs, ordered=True, parts=3, scale=None, shift=1):
        grid = (2 * torch.arange(1, len(pairs) + 1) - shift) * math.pi / len(pairs)
        total = 0.0
        for k in range(parts):
            ours, even = ((c, s, c * s)[k] for c, s in ((pairs[:, 0], pairs[:, 1]), (grid.cos(), grid.sin())))
            total = total + ((ours.sort().values - even.sort().values) if ordered else ours - even).norm()
        return total / (3 * len(pairs) if scale is None else scale)

    return [
        prior,
        lambda p: prior(p, ordered=False),
        lambda p: prior(p, parts=2),
        lambda p: prior(p, scale=1),
        lambda p: prior(p, shift=0.5),
        lambda p: prior(p) ** 2,
    ]


@answers("chamfer")
def _():
    def both(p, q, power=1, half=0.5, directions=2):
        d = torch.cdist(p, q) ** power
        return half * (d.amin(1).mean() + (d.amin(0).mean() if directions == 2 else d.amin(1).mean()))

    return [
        both,
        lambda p, q: both(p, q, power=2),
        lambda p, q: both(p, q, half=1.0),
        lambda p, q: both(p, q, directions=1),
        lambda p, q: torch.cdist(p, q).mean(),
    ]


@answers("f_score")
def _():
    def score(p, q, t, mean=lambda a, b: 2 * a * b / max(a + b, 1e-12), power=1):
        d = torch.cdist(p, q) ** power
        return mean(float((d.amin(1) < t).float().mean()), float((d.amin(0) < t).float().mean()))

    return [
        score,
        lambda p, q, t: score(p, q, t, mean=lambda a, b: (a + b) / 2),
        lambda p, q, t: score(p, q, t, mean=lambda a, b: a),
        lambda p, q, t: score(p, q, t, mean=lambda a, b: 2 * a * b / (a + b) if a + b else math.nan),
        lambda p, q, t: score(p, q, t, power=2),
        lambda p, q, t: score(p, q, t, mean=lambda a, b: b),
    ]


@answers("index_to_world")
def _():
    return [
        lambda i, n, b: -b + 2 * b * i / (n - 1),
        lambda i, n, b: -b + 2 * b * i / n,
        lambda i, n, b: 2 * b * i / (n - 1),
        lambda i, n, b: -b + 2 * b * round(i) / (n - 1),
        lambda i, n, b: -b + 2 * b * (i + 0.5) / n,
    ]


@answers("dz_dtheta")
def _():
    def slope(df, gradient, ray):
        return -df / (gradient * ray).sum(-1)

    return [
        slope,
        lambda *a: -slope(*a),
        lambda df, g, d: df / g.norm(dim=-1),
        lambda df, g, d: -df / unit((g * d).sum(-1, keepdim=True))[:, 0],
        lambda df, g, d: -df / (unit(g) * d).sum(-1),
        lambda *a: slope(*a).sum(),
    ]


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_answer_is_accepted(name, capsys):
    getattr(check, name)(RIGHT[name])
    assert capsys.readouterr().out == f"{name}: right\n"


@pytest.mark.parametrize("name", RIGHT)
def test_wrong_answers_are_refused_each_with_its_own_sentence(name):
    sentences = []
    for answer in WRONG[name]:
        with pytest.raises(check.WrongAnswerError) as refused:
            getattr(check, name)(answer)
        sentences.append(str(refused.value))
    assert len(set(sentences)) >= 4, sentences
    assert all(20 < len(sentence) < 140 and "\n" not in sentence for sentence in sentences)


def test_every_exercise_has_a_check_that_is_tested():
    found = {name for name, value in vars(check).items() if callable(value) and getattr(value, "__doc__", "")}
    found = {name for name in found if value_is_check(getattr(check, name))}
    assert found == set(RIGHT)


def value_is_check(value) -> bool:
    return getattr(value, "__module__", "") == check.__name__ and "answer" in getattr(value, "__annotations__", {})
