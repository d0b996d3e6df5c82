"""The platform in one process of one seed: time, randomness, threads, disk, database and network are ours.

machine.py    time and the loop that runs on it, threads, the clock, the disk; and how all of them end
database.py   the tables that outlive a process, and their faults
engine.py     an engine behind a network that loses, doubles and reorders
process.py    one life of the platform: the real services, wired as the composition root wires them
customers.py  who uses it, and what each of them was told
operator.py   who bills
books.py      what has to be true of the books
world.py      one seed from its beginning to its end
"""
