"""What every event has: who publishes it on which topic, its key, its derived id and its CloudEvents attributes.

The Kafka record is the event's JSON; its CloudEvents 1.0 attributes stand in the headers as well (`ce_id`, `ce_source`,
`ce_type`, `ce_subject`, `ce_time`). The key is `subject`: the subscription or account id, so order holds per customer.
Ids are derived from the cause, so whoever announces the same fact twice announces the same event.
"""

from abc import abstractmethod
from typing import Annotated, ClassVar, Literal, Self
from uuid import UUID, uuid5

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

NAMESPACE = UUID("6f1f9d43-8d0f-5f0c-9c0e-6b1a5e4f7a10")  # every derived id of Turnpike starts here

NIL = UUID(int=0)
SubscriptionStatus = Literal["incomplete", "incomplete_expired", "trialing", "active", "past_due", "unpaid", "paused", "canceled"]
InvoiceStatus = Literal["draft", "open", "paid", "void", "uncollectible"]
Minor = Annotated[int, Field(description="Amount in the currency's minor unit (cents for USD)")]


def derive_id(*parts: str) -> UUID:
    """Return the uuid5 of the parts: the same parts always give the same id."""
    return uuid5(NAMESPACE, "\x1f".join(parts))


class InvalidEventError(Exception):
    """No retry can make this event right: it is stored as a dead letter and the next one is read."""


class Event(BaseModel):
    """What every event carries.

    `cause_id` names what made it happen (a request, a webhook, another event); `event_id` is uuid5 of topic, key and cause.
    `occurred_at` is business time (UTC).
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    topic: ClassVar[str]
    publisher: ClassVar[str]

    event_id: UUID = NIL
    cause_id: str
    occurred_at: AwareDatetime

    @property
    @abstractmethod
    def key(self) -> str:
        """The Kafka key and CloudEvents subject."""

    @model_validator(mode="after")
    def _derive_event_id(self) -> Self:
        if self.event_id == NIL:
            object.__setattr__(self, "event_id", derive_id(self.topic, self.key, self.cause_id))
        return self

    def headers(self) -> dict[str, str]:
        """Return the CloudEvents attributes, as Kafka headers."""
        return {
            "content-type": "application/json",
            "ce_specversion": "1.0",
            "ce_id": str(self.event_id),
            "ce_source": f"/turnpike/{self.publisher}",
            "ce_type": self.topic,
            "ce_subject": self.key,
            "ce_time": self.occurred_at.isoformat(),
        }


class AccountEvent(Event):
    """Facts about who pays."""

    account_id: str

    @property
    def key(self) -> str:
        return self.account_id


class SubscriptionEvent(Event):
    """Facts about one subscription. `subscription_id` is Turnpike's own id and the first APIM sid."""

    subscription_id: str
    account_id: str

    @property
    def key(self) -> str:
        return self.subscription_id
