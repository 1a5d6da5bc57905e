"""The judges of estimators: problems, statistics, proofs, the certificate and comparisons."""
