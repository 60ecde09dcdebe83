"""Redis and Valkey, one server or a cluster; importing a module of this package imports redis-py.

The floors inside, from below: ``layout``, ``lua``, ``scripts`` and ``store_scripts`` (what is stored, and the Lua that
changes it), ``wire`` (effects that the two faces carry out), ``routing`` (one command to the right server, as often as
it takes), ``requests``, ``stores`` and ``leases`` (what each request means, as generators without I/O), ``sync`` and
``aio`` (the faces), with ``notices`` and ``aio_notices`` for their looks.
"""
