"""Programs of other systems that send a plan to Kafka, each with another client library: PROGRAM SERVERS CODEC NAME.

Each reads its plan from standard input, one JSON object a line: the key, value and topic of a record, its transaction
(null for none) and whether that is committed. The records of a transaction follow each other. NAME is the transactional
id. A program waits until the servers have acknowledged its records, also those that it aborts, so that these are in the
log. It then prints how many were acknowledged, and otherwise ends with an error.
"""
