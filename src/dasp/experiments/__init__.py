"""The experiments of the 2019 paper, end to end: data, networks, true values, every method it speaks of, tables, figures.

`dasp reproduce` (`command`) runs them. From the ground up: `files` (folders, downloads, whole writes) and `measures` know
nothing of the others; `data` and `dna` give data sets, `networks` trains on them, `truth` enumerates or samples true values
(`windows` makes that fast for networks over sequences); `problems` puts these together into a `problem.Problem`; `methods`
holds the estimators that are compared, `run` measures them one by one, `report` and `speed` sum up, `figures` draws.
"""
