"""The engine: loads a job, lets the pure machines advance it, saves it by compare-and-set, wakes whoever waits.

Each caller holds the part that says what it may do: the agents' door `agent_calls`, the people's door `people_calls`,
the driver `driver_calls`, the aggregator `aggregator_calls`; all but the agents' door also look through `state_reader`.
`assembly` puts the parts on a store. They hold no state, so any number of processes may each have them on the same
Redis. Whatever a crash leaves undone, the next tick does: nothing depends on an effect having run.

All methods raise `StateUnavailable` when the store does not answer.
"""
