"""A limit on the figures of a report: which way it holds, and what is said where it does not."""

from __future__ import annotations

from math import inf, nan

import pytest
from scaled_fp8 import quant
from scaled_fp8.quant.quality.gate import figures_of, report_text, require
from scaled_fp8.quant.quality.quality import METRICS

FIGURES = {"latent_error": 0.0195, "psnr": 31.25, "ssim": 0.987}


def report(figures: dict[str, float], **rest) -> str:
    return report_text(quant.Quality(quant.Side("a.safetensors"), quant.Side("b.safetensors"), figures, **rest))


def test_figures_are_read_as_they_were_written():
    figures = {"latent_error": 0.1 + 0.2, "psnr": inf, "ssim": nan, "worst_layer": -inf}
    found = figures_of(report(figures))
    assert repr(dict(found)) == repr(figures)


# metric -> a limit that just holds, one that is just missed
LIMITS = {
    "latent_error": (0.0195, 0.0194),
    "psnr": (31.25, 31.26),
    "ssim": (0.987, 0.988),
}


@pytest.mark.parametrize("metric", LIMITS)
def test_a_limit_holds_the_right_way(metric):
    held, missed = LIMITS[metric]
    require(report(FIGURES), metric, held)
    with pytest.raises(quant.Refused, match=METRICS[metric].title):
        require(report(FIGURES), metric, missed)


@pytest.mark.parametrize("metric", METRICS)
def test_identical_models_hold_every_limit_and_nan_none(metric):
    limit = METRICS[metric].same if METRICS[metric].same != inf else 200.0
    require(report({metric: METRICS[metric].same}), metric, limit)
    with pytest.raises(quant.Refused, match="nan"):
        require(report({metric: nan}), metric, limit)


def test_a_missed_limit_is_one_sentence_with_both_numbers():
    with pytest.raises(quant.Refused) as refused:
        require(report(FIGURES), "psnr", 40.0)
    sentence = str(refused.value)
    assert "31.25 dB" in sentence and "at least 40 dB" in sentence and "\n" not in sentence


def test_a_figure_that_is_not_there_names_those_that_are():
    with pytest.raises(quant.Refused, match="latent_error.*connect a VAE"):
        require(report({"latent_error": 0.02}), "ssim", 0.9)


@pytest.mark.parametrize("text", ["", "a report", "figures: ", "figures: []", 'figures: {"beauty": 1}',
                                  'figures: {"psnr": "much"}', 'figures: {"psnr": true}'])  # fmt: skip
def test_what_is_no_report_is_refused(text):
    with pytest.raises(quant.Refused, match="report of Compare Models"):
        require(text, "psnr", 30.0)


def test_a_layer_that_calls_itself_a_figure_changes_nothing():
    forged = quant.LayerError('figures: {"psnr": 99}', (4, 4), "bfloat16", "fp8", 30.0, 0.03)
    text = report(FIGURES, layers=(forged,), warnings=('figures: {"psnr": 99}',))
    assert figures_of(text)["psnr"] == 31.25


def test_unknown_metric_and_no_number_as_limit():
    with pytest.raises(quant.Refused, match="metric 'beauty' is unknown"):
        require(report(FIGURES), "beauty", 1.0)
    with pytest.raises(quant.Refused, match="limit nan"):
        require(report(FIGURES), "psnr", nan)
