"""The state machine of the upper layer, as the standard's own tables have it (PS3.8 9.2).

Read this file beside PS3.8: `State` is Table 9-1 to 9-5, `Event` the rows and `TABLE` the cells
of Table 9-10, `ACTIONS` Tables 9-6 to 9-9. Only what an acceptor can meet is here: it opens no
connection, and it never asks for a release itself, so Sta4, Sta5, Sta7 and Sta9 to Sta12 cannot
be reached.

No bytes, sockets or clocks: `UpperLayer.take` says what is to be done, whoever holds it does it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto


class State(Enum):
    """Tables 9-1 to 9-5."""

    STA1 = "idle"
    STA2 = "transport connection open, awaiting A-ASSOCIATE-RQ"
    STA3 = "awaiting local A-ASSOCIATE response"
    STA6 = "association established, ready for data transfer"
    STA8 = "awaiting local A-RELEASE response"
    STA13 = "awaiting transport connection close"


class Event(Enum):
    """Rows of Table 9-10."""

    TRANSPORT_CONNECTION_INDICATION = auto()
    A_ASSOCIATE_RQ = auto()
    A_ASSOCIATE_AC = auto()
    A_ASSOCIATE_RJ = auto()
    A_ASSOCIATE_RESPONSE_ACCEPT = auto()
    A_ASSOCIATE_RESPONSE_REJECT = auto()
    P_DATA_REQUEST = auto()
    P_DATA_TF = auto()
    A_RELEASE_RQ = auto()
    A_RELEASE_RP = auto()
    A_RELEASE_RESPONSE = auto()
    A_ABORT_REQUEST = auto()
    A_ABORT = auto()
    TRANSPORT_CONNECTION_CLOSED = auto()
    ARTIM_EXPIRED = auto()
    INVALID_PDU = auto()
    """Unrecognized or invalid PDU received."""


class Do(Enum):
    """The pieces that actions are made of."""

    SEND = auto()
    """Send the PDU that belongs to the action."""
    SEND_USER_ABORT = auto()
    SEND_PROVIDER_ABORT = auto()
    INDICATE = auto()
    """Tell the user of the service."""
    INDICATE_ABORT = auto()
    """A-ABORT or A-P-ABORT indication."""
    START_ARTIM = auto()
    STOP_ARTIM = auto()
    CLOSE = auto()
    """Close the transport connection."""


class Action(Enum):
    """Tables 9-6 to 9-9."""

    AE_5 = auto()
    AE_6 = auto()
    AE_7 = auto()
    AE_8 = auto()
    DT_1 = auto()
    DT_2 = auto()
    AR_2 = auto()
    AR_4 = auto()
    AR_5 = auto()
    AR_7 = auto()
    AA_1 = auto()
    AA_2 = auto()
    AA_3 = auto()
    AA_4 = auto()
    AA_5 = auto()
    AA_6 = auto()
    AA_7 = auto()
    AA_8 = auto()


ACTIONS: Mapping[Action, tuple[tuple[Do, ...], State]] = {
    # Table 9-6: association establishment. AE-6's other half, to reject at once what the
    # provider cannot accept, is AE-8: the answer is the same PDU.
    Action.AE_5: ((Do.START_ARTIM,), State.STA2),
    Action.AE_6: ((Do.STOP_ARTIM, Do.INDICATE), State.STA3),
    Action.AE_7: ((Do.SEND,), State.STA6),
    Action.AE_8: ((Do.SEND, Do.START_ARTIM), State.STA13),
    # Table 9-7: data transfer.
    Action.DT_1: ((Do.SEND,), State.STA6),
    Action.DT_2: ((Do.INDICATE,), State.STA6),
    # Table 9-8: association release.
    Action.AR_2: ((Do.INDICATE,), State.STA8),
    Action.AR_4: ((Do.SEND, Do.START_ARTIM), State.STA13),
    Action.AR_5: ((Do.STOP_ARTIM,), State.STA1),
    Action.AR_7: ((Do.SEND,), State.STA8),
    # Table 9-9: association abort.
    Action.AA_1: ((Do.SEND_USER_ABORT, Do.START_ARTIM), State.STA13),
    Action.AA_2: ((Do.STOP_ARTIM, Do.CLOSE), State.STA1),
    Action.AA_3: ((Do.INDICATE_ABORT, Do.CLOSE), State.STA1),
    Action.AA_4: ((Do.INDICATE_ABORT,), State.STA1),
    Action.AA_5: ((Do.STOP_ARTIM,), State.STA1),
    Action.AA_6: ((), State.STA13),
    Action.AA_7: ((Do.SEND_PROVIDER_ABORT,), State.STA13),
    Action.AA_8: ((Do.SEND_PROVIDER_ABORT, Do.INDICATE_ABORT, Do.START_ARTIM), State.STA13),
}


def _row(event: Event, **cells: Action) -> dict[tuple[Event, State], Action]:
    return {(event, State[state.upper()]): action for state, action in cells.items()}


_A = Action
# fmt: off
TABLE: Mapping[tuple[Event, State], Action] = {
    **_row(Event.TRANSPORT_CONNECTION_INDICATION, sta1=_A.AE_5),
    **_row(Event.A_ASSOCIATE_RQ,
           sta2=_A.AE_6, sta3=_A.AA_8, sta6=_A.AA_8, sta8=_A.AA_8, sta13=_A.AA_7),
    **_row(Event.A_ASSOCIATE_AC,
           sta2=_A.AA_1, sta3=_A.AA_8, sta6=_A.AA_8, sta8=_A.AA_8, sta13=_A.AA_6),
    **_row(Event.A_ASSOCIATE_RJ,
           sta2=_A.AA_1, sta3=_A.AA_8, sta6=_A.AA_8, sta8=_A.AA_8, sta13=_A.AA_6),
    **_row(Event.A_ASSOCIATE_RESPONSE_ACCEPT, sta3=_A.AE_7),
    **_row(Event.A_ASSOCIATE_RESPONSE_REJECT, sta3=_A.AE_8),
    **_row(Event.P_DATA_REQUEST, sta6=_A.DT_1, sta8=_A.AR_7),
    **_row(Event.P_DATA_TF,
           sta2=_A.AA_1, sta3=_A.AA_8, sta6=_A.DT_2, sta8=_A.AA_8, sta13=_A.AA_6),
    **_row(Event.A_RELEASE_RQ,
           sta2=_A.AA_1, sta3=_A.AA_8, sta6=_A.AR_2, sta8=_A.AA_8, sta13=_A.AA_6),
    **_row(Event.A_RELEASE_RP,
           sta2=_A.AA_1, sta3=_A.AA_8, sta6=_A.AA_8, sta8=_A.AA_8, sta13=_A.AA_6),
    **_row(Event.A_RELEASE_RESPONSE, sta8=_A.AR_4),
    **_row(Event.A_ABORT_REQUEST, sta3=_A.AA_1, sta6=_A.AA_1, sta8=_A.AA_1),
    **_row(Event.A_ABORT,
           sta2=_A.AA_2, sta3=_A.AA_3, sta6=_A.AA_3, sta8=_A.AA_3, sta13=_A.AA_2),
    **_row(Event.TRANSPORT_CONNECTION_CLOSED,
           sta2=_A.AA_5, sta3=_A.AA_4, sta6=_A.AA_4, sta8=_A.AA_4, sta13=_A.AR_5),
    **_row(Event.ARTIM_EXPIRED, sta2=_A.AA_2, sta13=_A.AA_2),
    **_row(Event.INVALID_PDU,
           sta2=_A.AA_1, sta3=_A.AA_8, sta6=_A.AA_8, sta8=_A.AA_8, sta13=_A.AA_7),
}
# fmt: on


class ImpossibleError(Exception):
    """A cell of Table 9-10 that is empty: whoever holds the machine made a mistake."""


class UpperLayer:
    """Where one association stands."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state = State.STA1

    def take(self, event: Event) -> tuple[Do, ...]:
        """Go on to the next state; what is to be done, in order.

        Raises:
            ImpossibleError: the event cannot happen in this state.
        """
        action = TABLE.get((event, self.state))
        if action is None:
            raise ImpossibleError(f"{event.name} in {self.state.name}")
        done, self.state = ACTIONS[action]
        return done

    def allows(self, event: Event) -> bool:
        """Whether a primitive of the user is possible now."""
        return (event, self.state) in TABLE
