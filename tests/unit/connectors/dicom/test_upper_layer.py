"""The state machine against the standard's table, as pynetdicom has it too."""

from __future__ import annotations

import pytest
from pynetdicom.fsm import TRANSITION_TABLE

from connectors.dicom.upper_layer import (
    ACTIONS,
    TABLE,
    Action,
    Do,
    Event,
    ImpossibleError,
    State,
    UpperLayer,
)

# PS3.8 Table 9-10 numbers no events; these are pynetdicom's numbers of the rows.
NUMBERS = {
    Event.A_ASSOCIATE_AC: 3,
    Event.A_ASSOCIATE_RJ: 4,
    Event.TRANSPORT_CONNECTION_INDICATION: 5,
    Event.A_ASSOCIATE_RQ: 6,
    Event.A_ASSOCIATE_RESPONSE_ACCEPT: 7,
    Event.A_ASSOCIATE_RESPONSE_REJECT: 8,
    Event.P_DATA_REQUEST: 9,
    Event.P_DATA_TF: 10,
    Event.A_RELEASE_RQ: 12,
    Event.A_RELEASE_RP: 13,
    Event.A_RELEASE_RESPONSE: 14,
    Event.A_ABORT_REQUEST: 15,
    Event.A_ABORT: 16,
    Event.TRANSPORT_CONNECTION_CLOSED: 17,
    Event.ARTIM_EXPIRED: 18,
    Event.INVALID_PDU: 19,
}


def test_every_cell_that_an_acceptor_can_meet_is_the_standards() -> None:
    ours = {
        (f"Evt{NUMBERS[event]}", state.name.capitalize()): action.name.replace("_", "-")
        for (event, state), action in TABLE.items()
    }
    events = {f"Evt{number}" for number in NUMBERS.values()}
    states = {state.name.capitalize() for state in State}
    theirs = {
        (event, state): action
        for (event, state), action in TRANSITION_TABLE.items()
        if event in events and state in states
    }
    assert ours == theirs


def test_every_action_is_used_and_leads_somewhere() -> None:
    assert set(TABLE.values()) == set(ACTIONS) == set(Action)
    assert {state for _, state in ACTIONS.values()} == set(State)


def test_a_whole_association_walks_through_its_states() -> None:
    machine = UpperLayer()
    walked = [
        (machine.take(event), machine.state)
        for event in (
            Event.TRANSPORT_CONNECTION_INDICATION,
            Event.A_ASSOCIATE_RQ,
            Event.A_ASSOCIATE_RESPONSE_ACCEPT,
            Event.P_DATA_TF,
            Event.P_DATA_REQUEST,
            Event.A_RELEASE_RQ,
            Event.A_RELEASE_RESPONSE,
            Event.TRANSPORT_CONNECTION_CLOSED,
        )
    ]
    assert walked == [
        ((Do.START_ARTIM,), State.STA2),
        ((Do.STOP_ARTIM, Do.INDICATE), State.STA3),
        ((Do.SEND,), State.STA6),
        ((Do.INDICATE,), State.STA6),
        ((Do.SEND,), State.STA6),
        ((Do.INDICATE,), State.STA8),
        ((Do.SEND, Do.START_ARTIM), State.STA13),
        ((Do.STOP_ARTIM,), State.STA1),
    ]


def test_an_empty_cell_is_a_mistake_of_ours() -> None:
    machine = UpperLayer()
    assert not machine.allows(Event.P_DATA_REQUEST)
    with pytest.raises(ImpossibleError):
        machine.take(Event.P_DATA_REQUEST)
