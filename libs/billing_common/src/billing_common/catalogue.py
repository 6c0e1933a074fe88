"""The catalogue: what is sold. `Catalogue.parse` reads monetizationModels.json, in its present or its older form."""

import json
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError

from billing_common.catalogue_mending import mend
from billing_common.catalogue_model import METER_ID_PATTERN, Meter, Part, Price, PricingModel, Product, UsagePrice
from billing_common.catalogue_problems import CatalogueError, Problem, Problems, add_validation_problems, did_you_mean
from billing_common.catalogue_rules import check
from billing_common.catalogue_source import Source, SourceError
from billing_common.catalogue_upgrade import OLDER_PLACES, upgrade_document

__all__ = [
    "Catalogue",
    "CatalogueError",
    "Meter",
    "Price",
    "PricingModel",
    "Problem",
    "Product",
    "UnknownProductError",
    "UsagePrice",
    "upgrade",
]

SCHEMA_PATH = "contracts/monetizationModels.schema.json"


class UnknownProductError(Exception):
    """The catalogue has no such product."""


class Catalogue(Part):
    """Meters and products, in the order in which they are shown."""

    model_config = ConfigDict(title="monetizationModels.json")

    schema_reference: str | None = Field(default=None, alias="$schema", description="where an editor finds this schema")
    version: Literal[1] = Field(description="version of this format")
    currency: str = Field(default="usd", description="ISO 4217 code, lower case, of every price that names no other")
    meters: dict[str, Meter] = Field(default_factory=dict, max_length=50, description=f"id ({METER_ID_PATTERN}) -> what is measured")
    products: tuple[Product, ...] = Field(min_length=1, max_length=100, description="the plans, in the order of the pricing page")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the file's text; raise `CatalogueError` with all problems at once."""
        try:
            source = Source(text)
        except SourceError as error:
            raise CatalogueError(
                [Problem("$", error.line, f"this is not JSON: {error.message}", f"one JSON object, as {SCHEMA_PATH} describes it")]
            ) from error
        problems = Problems(source)
        for path in source.repeated:
            problems.add(path, f'the name "{path[-1]}" stands here twice', "one of the two")
        if isinstance(source.value, list):
            document = upgrade_document(source.value, problems)
            problems.raise_if_any()
            problems.read_from_array(OLDER_PLACES)
        else:
            document = source.value
        return cls._validate(document, problems)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Self:
        """Read a document that was valid once, as `catalogue.applied` carries it."""
        return cls._validate(document, Problems(Source("{}")))

    @classmethod
    def _validate(cls, document: Any, problems: Problems) -> Self:
        try:
            catalogue = cls.model_validate(document)
        except ValidationError as error:
            add_validation_problems(problems, error, cls)
            cls._check_rest(document, problems)
            problems.raise_if_any()
            raise  # not reached: a validation error has at least one entry
        check(catalogue, dict(enumerate(catalogue.products)), problems)
        problems.raise_if_any()
        return catalogue

    @classmethod
    def _check_rest(cls, document: Any, problems: Problems) -> None:
        """Look for what else is wrong beside the broken fields, so that a person repairs the file once."""
        rest = mend(document)
        problems.hide(rest.gone)
        catalogue = cls.model_construct(version=1, currency=rest.currency, meters=rest.meters, products=tuple(rest.products.values()))
        check(catalogue, rest.products, problems, mentioned=rest.mentioned)

    def document(self) -> dict[str, Any]:
        """Return the catalogue as plain JSON, amounts as text; `from_document` reads it."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    def text(self) -> str:
        """Return the file as a person would write it: without what is the default anyway."""
        written = self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
        head = {"$schema": self.schema_reference or SCHEMA_PATH, "version": self.version, "currency": self.currency}
        return json.dumps({**head, **written}, indent=2, ensure_ascii=False) + "\n"

    def product(self, product_id: str) -> Product:
        """Return a product; raise `UnknownProductError` that names the nearest one."""
        for product in self.products:
            if product.id == product_id:
                return product
        hint = did_you_mean(product_id, [product.id for product in self.products])
        raise UnknownProductError(f'there is no product "{product_id[:80]}".{hint}')

    def currency_of(self, product: Product) -> str:
        """Return the default currency of a product."""
        return product.currency or self.currency

    def price_of(self, product: Product, currency: str | None = None) -> Price | None:
        """Return the price in a currency (the default one when absent), or None where the product has none in it."""
        if currency in (None, self.currency_of(product)):
            return product.price
        return product.currencies.get(currency or "")

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the JSON Schema of the file, for editors and `contracts/`."""
        schema = cls.model_json_schema(by_alias=True)
        return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_PATH.rsplit("/", 1)[-1], **schema}


def upgrade(text: str) -> Catalogue:
    """Read a file in either form; the result's `document()` is the present form."""
    return Catalogue.parse(text)
