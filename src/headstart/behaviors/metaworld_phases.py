"""The scripted experts' tables for Meta-World's 50 tasks, written with a few shared skills.

Tasks that need the same skill share its builder, and with it approach heights, thresholds and
gripper conventions, so that what is learnt from one task carries over to the next. Lengths are in
metres. ``benchmarks/experts.py`` measures what every change here does.
"""

from __future__ import annotations

from headstart.behaviors.scripted import (
    CLOSE,
    GOAL,
    HAND,
    OBJECT,
    OBJECT_2,
    OPEN,
    Phase,
    Point,
    Vector,
    invert,
    less,
    more,
    near,
    opening_less,
)

ABOVE = (0.0, 0.0, 0.1)
BELOW = (0.0, 0.0, -0.1)
FRONT = (0.0, -0.1, 0.0)
NO_STANDOFF = (0.0, 0.0, 0.0)
HELD_WITHIN = 0.05
"""An object is in the hand if it is this near to where it is grasped."""


def press(target: Point, standoff: Vector) -> tuple[Phase, ...]:
    """Line up with the target, fist closed, then go straight through it."""
    return (Phase("press", target, CLOSE, standoff=standoff),)


def push(
    contact: Point, motion: Point | Vector, standoff: Vector = ABOVE, slack: float = 0.04
) -> tuple[Phase, ...]:
    """Bring the closed fist to the contact with the object, then move and take the object along.

    Args:
        contact: where the hand touches; it moves with the object, so a fist that has slipped
            more than ``slack`` away approaches again.
        motion: how far ahead of the contact the hand aims.
        standoff: the side to approach from.
    """
    return (
        Phase("push", contact + motion, CLOSE, (near(HAND, contact, slack),)),
        Phase("approach", contact, CLOSE, standoff=standoff),
    )


def grasp(at: Point, hover: float = 0.1) -> tuple[Phase, ...]:
    """Open over the object, come down, close."""
    return (
        Phase("close", at, CLOSE, (near(HAND, at, 0.02),)),
        Phase("approach", at, OPEN, standoff=(0.0, 0.0, hover), radius=0.015),
    )


def pick_and_place(
    at: Point,
    to: Point,
    closed: float = 0.8,
    standoff: Vector = NO_STANDOFF,
    rise: bool = False,
    hover: float = 0.1,
) -> tuple[Phase, ...]:
    """Grasp an object ``at`` a point and take the object ``to`` another.

    Args:
        closed: the carrying starts when the gripper's opening is less. At 0.8 it is still
            closing, which is quick; slim and slippery objects need it closed.
        standoff: the side from which the object approaches its place.
        rise: go straight up to the stand-off's height first.
        hover: height over the grasp to come down from.
    """
    held = (near(HAND, at, HELD_WITHIN), opening_less(closed))
    carry = Phase("carry", _carried(to), CLOSE, held, standoff=standoff, radius=0.025)
    if not rise:
        return (carry, *grasp(at, hover))
    high = to + standoff
    low = (less("z", OBJECT, high.shift(z=-0.05)), invert(near(OBJECT, to, 0.05, "xy")))
    up = Phase("rise", _carried(high).replace(x=HAND, y=HAND), CLOSE, (*held, *low))
    return (up, carry, *grasp(at, hover))


def pick_and_pull(
    at: Point, motion: Vector, closed: float = 0.8, hover: float = 0.1
) -> tuple[Phase, ...]:
    """Grasp an object and pull it in one direction."""
    held = (near(HAND, at, HELD_WITHIN), opening_less(closed))
    return (Phase("pull", HAND + motion, CLOSE, held), *grasp(at, hover))


def _carried(to: Point) -> Point:
    """Where the hand goes so that the object it holds gets there."""
    return HAND + to - OBJECT


PUCK = OBJECT.shift(z=0.03)
"""Where to hold a puck: its centre is lower than the hand can go."""

# The middle of the bin in y, so that the fingers stay clear of its walls; closing centres the cube.
_BINNED_CUBE = (PUCK + PUCK.replace(y=0.7)) * 0.5

# The knob turns about an axis beside the goal. The contact is beside the knob's end, and a quarter
# turn of the spoke from the knob to the axis is the way that the knob moves.
_DIAL_AXIS = GOAL.shift(y=-0.03, z=-0.03)
_DIAL_WAY = (_DIAL_AXIS - OBJECT).quarter_turn()

# The fist presses on the middle of the plate and drags it.
_DRAG_PLATE = push(OBJECT, GOAL.replace(z=OBJECT) - OBJECT, slack=0.08)

_WRENCH = OBJECT.shift(x=-0.02, z=0.03)
_STICK_IN_HANDLE = (
    near(OBJECT, OBJECT_2, 0.03, "yz"),
    more("x", OBJECT, OBJECT_2.shift(x=-0.04)),
)

PHASES: dict[str, tuple[Phase, ...]] = {
    # Reach
    "reach": (Phase("reach", GOAL, OPEN),),
    "reach-wall": (
        Phase("over", GOAL.replace(z=0.35), OPEN, (less("y", HAND, 0.8), less("z", HAND, 0.25))),
        Phase("reach", GOAL, OPEN),
    ),
    # Pick and place, on the table and in the air
    "push": pick_and_place(PUCK, GOAL),
    "push-back": pick_and_place(PUCK, GOAL),
    "push-wall": pick_and_place(PUCK, GOAL, standoff=(0, 0, 0.2)),
    "pick-place": pick_and_place(PUCK, GOAL),
    "pick-place-wall": pick_and_place(PUCK, GOAL, standoff=(0, 0, 0.2)),
    "pick-out-of-hole": pick_and_place(PUCK, GOAL, hover=0.15),
    "soccer": pick_and_place(OBJECT.shift(z=0.02), GOAL),
    "sweep": pick_and_place(OBJECT.shift(z=0.05), GOAL),
    "sweep-into": pick_and_place(PUCK, GOAL),
    "coffee-push": pick_and_place(OBJECT.shift(z=0.06), GOAL, closed=0.6),
    "coffee-pull": pick_and_place(OBJECT.shift(z=0.06), GOAL, closed=0.6),
    "hand-insert": pick_and_place(PUCK, GOAL, standoff=(0, 0, 0.1)),
    "shelf-place": pick_and_place(PUCK, GOAL, standoff=(0, -0.15, 0)),
    "basketball": pick_and_place(PUCK, GOAL, standoff=(0, 0, 0.1), rise=True),
    "bin-picking": pick_and_place(_BINNED_CUBE, GOAL, standoff=(0, 0, 0.15), rise=True),
    "box-close": pick_and_place(
        OBJECT.shift(z=0.05), GOAL, closed=0.4, standoff=(0, 0, 0.05), rise=True, hover=0.15
    ),
    "assembly": pick_and_place(_WRENCH, GOAL.shift(x=0.13), standoff=(0, 0, 0.14)),
    "hammer": pick_and_place(OBJECT.shift(x=-0.04, z=0.04), GOAL.shift(x=-0.15, y=0.1, z=0.03)),
    # The peg's head is 0.13 beyond where it is held.
    "peg-insert-side": pick_and_place(
        OBJECT.shift(z=0.02), GOAL.shift(x=0.1, z=0.01), standoff=(0.15, 0, 0)
    ),
    "stick-push": pick_and_place(
        OBJECT.shift(x=0.015, z=0.03),
        OBJECT_2.shift(x=0.05, z=-0.03),
        closed=0.5,
        standoff=(-0.2, 0, 0),
    ),
    "stick-pull": (
        Phase("pull", HAND + GOAL.replace(z=OBJECT_2) - OBJECT_2, CLOSE, _STICK_IN_HANDLE),
        *pick_and_place(
            OBJECT.shift(x=-0.015, z=0.03), OBJECT_2.shift(x=0.01), standoff=(-0.12, 0, 0)
        ),
    ),
    # Pick and pull; a handle is damped, so a quick pull slips
    "disassemble": pick_and_pull(_WRENCH, (0, 0, 0.2)),
    "peg-unplug-side": pick_and_pull(OBJECT.shift(x=-0.02, z=0.02), (0.15, 0, 0), 0.87, hover=0.15),
    "handle-pull": pick_and_pull(OBJECT.shift(z=-0.01), (0, 0, 0.04), 0.6),
    "handle-pull-side": pick_and_pull(OBJECT, (0, 0, 0.04), 0.6),
    # Press
    "button-press": press(OBJECT.shift(y=0.15), FRONT),
    "button-press-wall": (
        Phase(
            "over",
            OBJECT.shift(y=-0.04, z=0.18),
            CLOSE,
            (less("y", HAND, OBJECT.shift(y=-0.07)),),
        ),
        *press(OBJECT.shift(y=0.15, z=0.03), (0, -0.19, 0)),
    ),
    "button-press-topdown": press(OBJECT.shift(z=-0.15), (0, 0, 0.25)),
    "button-press-topdown-wall": press(OBJECT.shift(z=-0.15), (0, 0, 0.25)),
    "coffee-button": press(OBJECT.shift(y=0.2, z=-0.05), (0, -0.25, 0)),
    "handle-press": press(OBJECT.shift(z=-0.15), (0, 0, 0.25)),
    "handle-press-side": press(OBJECT.shift(z=-0.15), (0, 0, 0.25)),
    "door-close": press(GOAL.shift(x=0.05, y=0.06), (-0.1, 0, 0)),
    # Push, slide and turn
    "door-open": push(OBJECT.shift(x=0.01, y=0.02), (-0.15, -0.1, 0), slack=0.06),
    "door-lock": push(OBJECT.shift(x=-0.02, y=-0.02), (0, 0, -0.15), slack=0.05),
    "door-unlock": push(OBJECT.shift(x=-0.04, y=-0.02, z=-0.03), (0.15, 0, 0), standoff=FRONT),
    "drawer-close": push(OBJECT.shift(y=-0.075, z=-0.02), (0, 0.2, 0)),
    "drawer-open": push(OBJECT.shift(z=-0.02), (0, -0.15, 0)),
    "faucet-open": push(OBJECT.shift(x=-0.04, z=0.03), (0.15, 0.07, 0)),
    "faucet-close": push(OBJECT.shift(x=0.04, z=0.03), (-0.15, 0.07, 0)),
    "lever-pull": push(OBJECT.shift(y=-0.06), (0, 0.08, 0.04), standoff=BELOW, slack=0.05),
    "dial-turn": push((OBJECT - _DIAL_WAY * 0.9).replace(z=0.075), _DIAL_WAY * 2, slack=0.035),
    "plate-slide": _DRAG_PLATE,
    "plate-slide-side": _DRAG_PLATE,
    "plate-slide-back": _DRAG_PLATE,
    "plate-slide-back-side": _DRAG_PLATE,
    "window-open": push(OBJECT.shift(x=-0.03, y=-0.03, z=-0.08), (0.15, 0, 0)),
    "window-close": push(OBJECT.shift(x=0.03, y=-0.03, z=-0.08), (-0.15, 0, 0)),
}
