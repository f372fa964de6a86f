"""Runs cleanlab's side of label_noise.py: it scores how doubtful labels are and counts issues."""

import sys

import numpy as np
from cleanlab.count import num_label_issues
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores

folder = sys.argv[1]
given = np.load(f"{folder}/in.npz")
labels, probabilities = given["labels"], given["probabilities"]
said = {}
for method in ("self_confidence", "normalized_margin"):
    quality = get_label_quality_scores(labels, probabilities, method=method)
    said[method] = -quality
    issues = find_label_issues(labels, probabilities, return_indices_ranked_by=method)
    score = np.zeros(len(labels))
    score[issues] = np.arange(len(issues), 0, -1)
    said[f"issues by {method}"] = score
said["count"] = num_label_issues(labels, probabilities)
np.savez(f"{folder}/out.npz", **said)
