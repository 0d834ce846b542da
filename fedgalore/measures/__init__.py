"""Metrics as counts that can be summed over sites.

A site counts on its examples (`counting`). The sums of all sites have the value of one test set of all of them
(`values`). Only counting needs torch.
"""
