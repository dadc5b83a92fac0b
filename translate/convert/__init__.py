"""Translating files: a folder in, the same tree and names out, interrupted and resumed as often as need be.

Who calls whom:

    a folder     folder  → jobs         which file becomes which, by names alone
                         → ledger       what earlier calls have done
                         → converter    each file: read and translated
                           → saving     its output written, and noted in the ledger
                           → protecting regions that stay as they are in the input
                           → workers    how many are read ahead and written behind, in `pools`
    one image    converter, python_api → translating → the generator, whole or through `translate.tiling`
                                         → scaling: at what scale, and in which size it is given back
    in memory    python_api             `translate.load(…).convert(image)`
    processes    sharding               the command line: the shard of each process, and the sum of their summaries
    machines     on_ray → converter     files given out to a cluster (`translate.cluster`): a converter on each worker
    storage      remote → converter     files fetched from object storage, and put there
                        → storage       a folder of it
"""

from translate.convert.folder import convert
from translate.convert.jobs import Shard
from translate.convert.ledger import LEDGER, Entry
from translate.convert.summary import Summary

__all__ = ["LEDGER", "Entry", "Shard", "Summary", "convert"]
