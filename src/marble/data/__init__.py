"""Images in: data sets as random-access sources, and batches of them in one order for any number of processes.

Reading order is data flow: originals and folder (what a user has on disk), download (how to get it), builders and
prepare (stored once by tensorflow-datasets), sources (opened by name), examples (random access), loader (batches),
preprocess (inside the compiled step).
"""
