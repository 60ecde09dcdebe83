"""Redis and Valkey, one server or a cluster; importing a module of this package imports redis-py.

The floors inside, from below: ``layout`` and ``scripts`` (what is stored, and the Lua that changes it), ``wire``
(effects that the two faces carry out), ``routing`` (one command to the right server, however often it takes),
``requests`` and ``stores`` (what each request means, as generators without I/O), ``sync`` and ``aio`` (the faces).
"""
