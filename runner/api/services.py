"""What the routes work with."""

from dataclasses import dataclass

from runner.dispatch.delivering import Delivering
from runner.dispatch.dispatcher import Dispatcher
from runner.dispatch.durable import Durable
from runner.records.record import Record


@dataclass(frozen=True)
class Services(Record):
    """Everything a request may need."""

    dispatcher: Dispatcher
    durable: Durable
    delivering: Delivering
