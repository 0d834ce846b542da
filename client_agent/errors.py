"""What can go wrong between an agent and its coordinator, by what the agent does about it."""

from __future__ import annotations


class AgentError(Exception):
    """The message is for a person; `code`, where there is one, for machines."""

    code = ""


class AgentRefused(AgentError):
    """The coordinator will never work with this agent as it is; the process ends."""


class WorkDirUnusable(AgentError):
    """The agent's folder cannot be written, or another process works in it; ends the process."""


class NoRoom(AgentError):
    """The disk of the agent's folder takes nothing more; the agent waits, and gives the task up after a while."""


class AgentUnknown(AgentError):
    """The coordinator does not know this agent; the agent registers again."""


class RoundOver(AgentError):
    """The round takes nothing more from this agent; it drops the task."""


class CoordinatorAway(AgentError):
    """No answer for longer than the patience of the call; it drops the task and waits for the coordinator."""


class InvalidExchange(AgentError):
    """What one side sent is of no use to the other, such as a file with another content; the task has failed."""


class OutOfMemory(AgentError):
    """There was too little memory for the trainer, which has let go of all that it held; the task has failed."""


class CannotTrain(AgentError):
    """This site cannot do the task: its data or the job's model or numbers do not allow it."""


class UnfitData(CannotTrain):
    """An example of this site does not fit the job. The message may leave the site: it names no row, value or file.
    These stand in the agent's log.
    """

    code = "data.unfit"


class SiteRefuses(CannotTrain):
    """This site will not do the task: its policy forbids it. Nothing was loaded or fetched for it."""

    def __init__(self, code: str, words: str) -> None:
        super().__init__(words)
        self.code = code
