"""The backends: each performs the requests of :mod:`ptb_kvpersistence.model` on one kind of database."""
