"""AUCs by section and domain against hand-made cases and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from trainable.scoring.domains import domain_scores


def test_normal_clips_of_a_domain_stand_against_all_anomalies_of_their_section() -> None:
    labels = np.array([0, 0, 1, 1, 0, 1])
    domains = ["source", "target", "source", "target", "target", "source"]
    scores = np.array([0.1, 0.5, 0.3, 0.9, 0.2, 0.8])
    found = domain_scores(labels, scores, ["00"] * 4 + ["01"] * 2, domains)
    assert found is not None
    # The section 01 has no normal clip of the source domain.
    assert found.auc == {("00", "source"): 1.0, ("00", "target"): 0.5, ("01", "target"): 1.0}
    assert found.pauc == {
        "00": pytest.approx(roc_auc_score(labels[:4], scores[:4], max_fpr=0.1)),
        "01": pytest.approx(1.0),
    }
    values = [1.0, 0.5, 1.0, found.pauc["00"], 1.0]
    assert found.harmonic_mean == pytest.approx(5 / sum(1 / value for value in values))
    assert found.text.startswith("00 source 1.000, 00 target 0.500, 01 target 1.000; harmonic mean with pAUC 0.")
    assert found.to_dict()["auc"] == {"00": {"source": 1.0, "target": 0.5}, "01": {"target": 1.0}}


@pytest.mark.parametrize("domains", [(), ("source",) * 4])
def test_without_several_domains_there_is_nothing_to_report(domains: tuple[str, ...]) -> None:
    assert domain_scores(np.array([0, 1, 0, 1]), np.arange(4.0), ["00"] * 4, domains) is None


def test_one_section_is_not_named() -> None:
    found = domain_scores(np.array([0, 1, 0, 1]), np.array([0.0, 1.0, 0.0, 1.0]), ["00"] * 4, ["a", "a", "b", "b"])
    assert found is not None
    assert found.text == "a 1.000, b 1.000; harmonic mean with pAUC 1.000"


def test_an_auc_of_0_does_not_divide_by_0() -> None:
    found = domain_scores(np.array([0, 1, 0, 1]), np.array([1.0, 0.0, 1.0, 0.0]), ["00"] * 4, ["a", "a", "b", "b"])
    assert found is not None
    assert 0 <= found.harmonic_mean < 1e-9
