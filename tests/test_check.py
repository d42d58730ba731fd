"""Each check accepts a right answer and refuses wrong ones, each with a sentence of its own."""

import math

import numpy as np
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


@answers("on_white")
def _():
    def mixed(colours, opacity, background=1.0):
        a = opacity[..., None]
        return a * colours + (1 - a) * background

    return [
        mixed,
        lambda c, a: mixed(c, a, background=0.0),
        lambda c, a: mixed(c, (a >= 0.5).to(a)),
        lambda c, a: mixed(c, 1 - a),
        lambda c, a: a * c + 1 - a,
        lambda c, a: a[..., None] * c + 1,
        lambda c, a: mixed(c, a).mean(dim=-1),
    ]


@answers("crop_square")
def _():
    def crop(mask, margin, over=0.5, end=1, larger=max, up=math.ceil, centred=True, clamp=False, swap=False):
        rows, columns = (mask >= over).nonzero(as_tuple=True)
        low = [int(columns.min()), int(rows.min())]
        high = [int(columns.max()) + end, int(rows.max()) + end]
        side = up(margin * larger(high[0] - low[0], high[1] - low[1]))
        corner = [(a + b - side) // 2 for a, b in zip(low, high, strict=True)] if centred else low
        corner = [max(0, c) for c in corner] if clamp else corner
        return (*(corner[::-1] if swap else corner), side)

    return [
        crop,
        lambda *a: crop(*a, larger=min),
        lambda *a: crop(*a, end=0),
        lambda *a: crop(*a, centred=False),
        lambda *a: crop(*a, clamp=True),
        lambda *a: crop(*a, swap=True),
        lambda *a: crop(*a, over=0.1),
        lambda *a: crop(*a, over=0.6),
        lambda *a: crop(a[0], a[1] ** 2),
        lambda *a: crop(*a)[:2],
    ]


@answers("camera_position")
def _():
    def position(azimuth, elevation, distance, sign=-1.0, flat=torch.cos, rise=torch.sin):
        x, y = sign * azimuth.sin() * flat(elevation), azimuth.cos() * flat(elevation)
        return distance * torch.stack([x, y, rise(elevation)], dim=-1)

    return [
        position,
        lambda *a: position(*a, sign=1.0),
        lambda *a: position(*a, flat=torch.ones_like),
        lambda a, e, d: position(a, e, 1.0),
        lambda a, e, d: position(a.deg2rad(), e.deg2rad(), d),
        lambda *a: position(*a, rise=lambda e: e.sin().abs()),
        lambda a, e, d: position(a - math.pi / 2, e, d),
        lambda *a: position(*a).T,
    ]


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


@answers("match_share")
def _():
    def share(index, models, missing=True, empty=False, pooled=False, enough=False):
        parts = []
        for row, line in enumerate(index.tolist()):
            same = [models[n] == models[row] for n in line if n >= 0 or not missing]
            if same or empty:
                parts.append(([any(same)] if enough else same) or [0])
        values = [one for part in parts for one in part] if pooled else [sum(part) / len(part) for part in parts]
        return sum(values) / len(values)

    return [
        share,
        lambda *a: share(*a, missing=False),
        lambda *a: share(*a, empty=True),
        lambda *a: share(*a, pooled=True),
        lambda *a: share(*a, enough=True),
        lambda *a: 100 * share(*a),
        lambda *a: share(*a) * math.nan,
        lambda index, models: (index >= 0).float().mean(dim=1),
        lambda *a: 1 - share(*a),
    ]


@answers("model_interval")
def _():
    def interval(values, models, resamples, groups=True, replace=True, ends=(2.5, 97.5), by_model=False):
        names, which = np.unique(models if groups else np.arange(len(values)), return_inverse=True)
        if by_model:
            values = np.array([values[which == k].mean() for k in range(len(names))])
            which = np.arange(len(names))
        draw, means = np.random.default_rng(0), []
        for _ in range(resamples):
            times = np.bincount(draw.choice(len(names), len(names), replace=replace), minlength=len(names))[which]
            means.append(times @ values / times.sum())
        return tuple(np.percentile(means, ends))

    return [
        interval,
        lambda *a: interval(*a, groups=False),
        lambda *a: interval(*a, replace=False),
        lambda *a: interval(*a, ends=(5, 95)),
        lambda *a: interval(*a, by_model=True),
        lambda *a: interval(*a)[::-1],
        lambda *a: (a[0].mean(), *interval(*a)),
        lambda *a: (a[0].mean() - a[0].std(), a[0].mean() + a[0].std()),
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


@answers("distance_transform")
def _():
    def transform(mask, norm=lambda x: x.square().sum(-1).sqrt(), over=torch.amin, of=True):
        rows, columns = torch.meshgrid(*(torch.arange(float(n)) for n in mask.shape), indexing="ij")
        pixels = torch.stack([rows, columns], dim=-1)
        return over(norm(pixels[:, :, None] - pixels[mask == of]), dim=-1)

    return [
        transform,
        lambda m: transform(m, of=False),
        lambda m: transform(m, norm=lambda x: x.abs().sum(-1)),
        lambda m: transform(m, norm=lambda x: x.abs().amax(-1)),
        lambda m: transform(m, norm=lambda x: x.square().sum(-1)),
        lambda m: transform(m, over=torch.mean),
        lambda m: transform(m).flatten(),
        lambda m: transform(m) / m.shape[1],
        lambda m: transform(m).clamp(max=4 if m.sum() < 3 else 1),
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


@answers("pixel")
def _():
    def pixel(w, c, z, share=1.0, white=1.0, far=0.0, least=1e-12, empty=True):
        mask = w.sum(-1)
        rgb = ((w[..., None] * c).sum(-2)) / (mask[:, None] if share == "mask" else 1) + white * (1 - mask[:, None])
        depth = (w * z).sum(-1) / (1 if share == "sum" else mask.clamp(min=least)) + far * (1 - mask) * z[:, -1]
        return rgb, mask, torch.where(mask > 0, depth, z[:, -1]) if empty else depth

    return [
        pixel,
        lambda *a: pixel(*a, white=0.0),
        lambda *a: pixel(*a, share="mask", white=0.0),
        lambda *a: pixel(*a, share="sum"),
        lambda *a: pixel(*a, share="sum", far=1.0),
        lambda *a: pixel(*a, least=0.0, empty=False),
        lambda *a: pixel(*a, empty=False),
        lambda *a: pixel(*a)[:2],
        lambda w, c, z: (pixel(w, c, z)[0], w.amax(-1), pixel(w, c, z)[2]),
        lambda w, c, z: pixel(w, c.mean(0, keepdim=True).expand_as(c), z),
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


@answers("canonical_normals")
def _():
    return [
        lambda n, r: n @ r,
        lambda n, r: n @ r.mT,
        lambda n, r: n,
        lambda n, r: -(n @ r),
        lambda n, r: n @ r[0],
        lambda n, r: (n @ r).flatten(0, 1),
        lambda n, r: n @ r if len(n) == 1 else n @ r.mT,
    ]


@answers("robust_mean")
def _():
    def mean(error, visible, keep, least=1, of=None, descending=False):
        best = error[visible].sort(descending=descending).values
        count = max(least, int(keep * (of or len(best))))
        return best[:count].sum() / max(1, min(count, len(best)))

    def each(error, visible, keep):
        return torch.stack([mean(e, v, keep) for e, v in zip(error, visible, strict=True)]).mean()

    return [
        mean,
        each,
        lambda *a: mean(*a, descending=True),
        lambda e, v, k: mean(e, v, k) * k,
        lambda e, v, k: mean(e, torch.ones_like(v), k),
        lambda e, v, k: mean(e, v, k, of=v.numel()),
        lambda e, v, k: mean(e, v, k, least=0),
        lambda e, v, k: e[v].sort().values[: max(1, int(k * v.sum()))].mean(),
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


@answers("eikonal")
def _():
    def loss(f, x, total=torch.sum, graph=True, length=lambda g: g.norm(dim=-1), cost=torch.square, over=torch.mean):
        x = x.requires_grad_()
        return over(cost(length(torch.autograd.grad(total(f(x)), x, create_graph=graph)[0]) - 1))

    return [
        loss,
        lambda *a: loss(*a, over=torch.sum),
        lambda *a: loss(*a) / 2,
        lambda *a: loss(*a, cost=torch.abs),
        lambda *a: loss(*a, length=lambda g: g.square().sum(-1)),
        lambda *a: loss(*a, total=torch.mean),
        lambda *a: loss(*a, graph=False),
        lambda *a: loss(*a, length=lambda g: g.norm(dim=-1).mean()),
    ]


@answers("mirrored_viewpoint")
def _():
    keep, opposite, half, supplement = ([1, 1], [1, -1], [-1, -1], [-1, 1])

    def signs(*of_each):
        return lambda *pairs: tuple(pair * torch.tensor(sign) for pair, sign in zip(pairs, of_each, strict=True))

    return [
        signs(opposite, keep, opposite),
        signs(keep, keep, opposite),
        signs(half, keep, opposite),
        signs(supplement, keep, opposite),
        signs(opposite, opposite, opposite),
        signs(opposite, keep, keep),
        signs(opposite, keep, half),
        lambda *pairs: signs(opposite, keep, opposite)(*pairs)[:2],
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


@answers("written_layer")
def _():
    def layer(codes, writer, points, bias=0, order="rows", of=None):
        codes = codes[:1].expand_as(codes) if of == "first" else codes
        inputs = points.shape[-1]
        rows = (codes @ writer.T).unflatten(-1, (1 + inputs, -1))
        rows = (codes @ writer.T).unflatten(-1, (-1, 1 + inputs)).mT if order == "columns" else rows
        rows = rows.roll(1, 1) if bias == "last" else rows
        return bias_of(rows, bias) + points @ rows[:, 1:]

    def bias_of(rows, bias):
        return 0 * rows[:, :1] if bias == "none" else rows[:, :1]

    return [
        layer,
        lambda *a: layer(*a, bias="none"),
        lambda *a: layer(*a, bias="last"),
        lambda *a: layer(*a, order="columns"),
        lambda *a: layer(*a, of="first"),
        lambda *a: layer(*a).relu(),
        lambda *a: layer(*a).mT,
        lambda c, w, p: layer(c, w, p.square()),
    ]


@answers("ray_loss")
def _():
    def loss(f, inside, margin, over=torch.sum, sign=1.0, whole=False, beside=False, epsilon=1.0):
        alpha = -torch.ones_like(f)
        alpha[:, 0 if whole else -1 :][inside | beside] = 1.0
        return over((sign * alpha * f + epsilon * margin).clamp(min=0))

    return [
        loss,
        lambda *a: loss(*a, sign=-1.0),
        lambda f, i, m: loss(f[:, -1:], i, m) + loss(f[:, :-1], i, m, whole=True),
        lambda *a: loss(*a, beside=True),
        lambda *a: loss(*a, epsilon=0.0),
        lambda *a: loss(*a, over=torch.mean),
        lambda *a: loss(*a, over=lambda x: x.sum(-1)),
        lambda f, i, m: loss(f, i, m) / len(f),
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
