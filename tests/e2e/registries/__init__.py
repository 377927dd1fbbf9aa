"""The source registries of the table, each as its public endpoint behaves, under its real names.

Fakes of their API hosts, token services and blob stores listen on port 443 of addresses of
their own, in a network namespace of the tests' own, behind TLS with a throw-away certificate
authority. The names lead there through the namespace's ``/etc/hosts``, and nothing leads out. A
real ``entrepot serve`` and a real skopeo run in the namespace. `tests.e2e.registries.profiles` says
how each registry behaves and where that is written.
"""
