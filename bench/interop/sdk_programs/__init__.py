"""Programs of other systems that send CloudEvents to Kafka, each with another official SDK: PROGRAM SERVERS.

Each reads events from standard input, one JSON object a line:

    topic, mode          where to, and `binary` or `structured`
    id, source, type     attributes; datacontenttype may be null: the event has none
    extensions           attributes by name: strings, integers, booleans
    data, kind           an object, which is given to the SDK as an `object`, as `bytes` of JSON, or as `text` of JSON

A program waits until the servers have acknowledged its records. It then prints how many, and otherwise ends with an
error.
"""
