"""Running counts over a time-ordered log: how much happened to an entity strictly before each row."""

import numpy as np


class RunningCounts:
    """Counts events per entity as time passes; events of the same second do not see each other.

    Work per call is proportional to the bucket; memory to the number of entities.
    """

    def __init__(self, entities: int) -> None:
        self.totals = np.zeros(entities, np.int64)

    def advance(self, order: "EntityOrder", events: np.ndarray) -> np.ndarray:
        """Count `events` (n,) bool of a bucket in; return (n,) int64, each row's count of strictly earlier events."""
        before = self.totals[order.entity] + order.earlier(events)
        self.totals += np.bincount(order.entity[events], minlength=len(self.totals))
        return before


class EntityOrder:
    """One bucket's rows, sorted by time, grouped by entity; shared by all counts over the same entity.

    entity: (n,) entity indices; ts: (n,) ascending Unix seconds.
    """

    def __init__(self, entity: np.ndarray, ts: np.ndarray) -> None:
        self.entity = entity
        self._order = np.argsort(entity, kind="stable")
        grouped, times = entity[self._order], ts[self._order]
        places = np.arange(len(entity))
        new_entity = np.ones(len(entity), bool)
        new_entity[1:] = grouped[1:] != grouped[:-1]
        new_time = new_entity.copy()
        new_time[1:] |= times[1:] != times[:-1]
        self._group_start = np.maximum.accumulate(np.where(new_entity, places, 0))
        self._tie_start = np.maximum.accumulate(np.where(new_time, places, 0))

    def earlier(self, events: np.ndarray) -> np.ndarray:
        """(n,) events of the same entity in this bucket with a strictly smaller ts."""
        return self._count(events, self._tie_start)

    def rank(self, events: np.ndarray) -> np.ndarray:
        """(n,) events of the same entity in this bucket that stand before the row, ties in row order."""
        return self._count(events, np.arange(len(events)))

    def _count(self, events: np.ndarray, until: np.ndarray) -> np.ndarray:
        before = np.concatenate(([0], np.cumsum(events[self._order])))
        counts = np.empty(len(events), np.int64)
        counts[self._order] = before[until] - before[self._group_start]
        return counts
