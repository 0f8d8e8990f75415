"""From clips to pictures of the size an encoder takes: children decode ahead, pictures come through shared memory.

`pool` is the entry; `tasks` says what goes in and comes out.
"""
