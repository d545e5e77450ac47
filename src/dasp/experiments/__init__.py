"""The experiments of the 2019 paper, end to end: data, networks, true values, every method it speaks of, tables, figures.

`dasp reproduce` runs them. The order of the files: `files` and `measures` know nothing of the others; `data` and `dna` give
data sets, `networks` trains on them, `truth` samples or enumerates true values, `problem` puts these together; `methods`
holds the estimators that are compared, `run` measures them one by one, `report` and `figures` show what was measured.
"""
