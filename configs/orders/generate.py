"""Orders in plain words, each with what it means as JSON: `python configs/orders/generate.py` writes both files again.

Nothing in a prompt says what to answer, so a model that was not tuned cannot. No (item, colour, city) of a held-out
row occurs in training, and two held-out rows in five use a city and a phrasing that training never shows.
"""

import json
import random
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

SEED = 20
NUM_TRAIN = 640
NUM_FAMILIAR = 120
"""Held-out rows with cities and phrasings of training, in new combinations."""
NUM_UNSEEN = 80
"""Held-out rows with cities and phrasings that training never shows."""

PLURALS = {
    "backpack": "backpacks", "basket": "baskets", "bicycle": "bicycles", "blanket": "blankets", "brush": "brushes",
    "candle": "candles", "chair": "chairs", "clock": "clocks", "curtain": "curtains", "helmet": "helmets",
    "jacket": "jackets", "kettle": "kettles", "knife": "knives", "lamp": "lamps", "mug": "mugs",
    "notebook": "notebooks", "pillow": "pillows", "scarf": "scarves", "shelf": "shelves", "stool": "stools",
    "suitcase": "suitcases", "table": "tables", "umbrella": "umbrellas", "vase": "vases",
}  # fmt: skip
COLOURS = (
    "black", "blue", "brown", "green", "grey", "orange", "pink", "purple", "red", "silver", "white", "yellow",
)  # fmt: skip
CITIES = (
    "Aberdeen", "Accra", "Adelaide", "Aleppo", "Algiers", "Almaty", "Amsterdam", "Ankara", "Athens", "Atlanta",
    "Auckland", "Austin", "Baghdad", "Baku", "Bangkok", "Barcelona", "Beirut", "Belfast", "Belgrade", "Bergen",
    "Berlin", "Bilbao", "Bogota", "Bologna", "Bombay", "Bordeaux", "Brisbane", "Bristol", "Brussels", "Bucharest",
    "Budapest", "Cairo", "Calgary", "Cardiff", "Casablanca", "Cologne", "Copenhagen", "Cordoba", "Cork", "Dakar",
    "Dallas", "Damascus", "Darwin", "Delhi", "Detroit", "Doha", "Dresden", "Dublin", "Dundee", "Durban", "Edinburgh",
    "Florence", "Frankfurt", "Geneva", "Genoa", "Ghent", "Glasgow", "Granada", "Graz", "Hamburg", "Hanoi", "Hanover",
    "Havana", "Helsinki", "Houston", "Istanbul", "Jakarta", "Karachi", "Kiel", "Kingston", "Krakow", "Lagos", "Leeds",
    "Leipzig", "Lille", "Lima", "Lisbon", "Liverpool", "London", "Lyon", "Madrid", "Malaga", "Manila", "Marseille",
    "Melbourne", "Memphis", "Miami", "Montreal", "Moscow", "Munich", "Nairobi", "Nantes", "Naples", "Nice",
    "Nottingham", "Oslo", "Ottawa", "Oxford", "Palermo", "Paris", "Perth", "Phoenix", "Pisa", "Porto", "Prague",
    "Quebec", "Quito", "Reykjavik", "Riga", "Rome", "Salzburg", "Santiago", "Seattle", "Seoul", "Seville",
    "Sheffield", "Siena", "Sofia", "Stockholm", "Strasbourg", "Stuttgart", "Sydney", "Tampere", "Tbilisi", "Tehran",
    "Tokyo", "Trieste", "Tripoli", "Tunis", "Turin", "Utrecht", "Valencia", "Vancouver", "Venice", "Verona", "Vienna",
    "Vilnius", "Warsaw", "Wellington", "York", "Zagreb", "Zurich",
)  # fmt: skip
"""Many, and few rows of each: what is learnt is to copy the city, not which ones there are."""
UNSEEN_CITIES = (
    "Antwerp", "Boston", "Cambridge", "Chicago", "Denver", "Galway", "Manchester", "Milan", "Portland", "Rotterdam",
    "Tallinn", "Toronto",
)  # fmt: skip
NUMBER_WORDS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
"""Written out for 2 to 12."""
LARGEST_QUANTITY = 60

PHRASINGS = (
    "Please send {quantity} {colour} {items} to {city}.",
    "I need {quantity} {colour} {items} in {city}.",
    "We would like {quantity} {colour} {items} delivered to {city}.",
    "Order {quantity} {items} in {colour} for {city}.",
    "Our {city} shop is out of {colour} {items}, send {quantity}.",
    "Could you ship {quantity} {colour} {items} to {city}?",
    "{city} wants {quantity} {items}, all {colour}.",
    "Hi, {quantity} {colour} {items} for our office in {city}, please.",
    "Get me {quantity} {items}, {colour} ones, to {city}.",
    "For {city}: {quantity} {colour} {items}.",
    "Can I have {quantity} {items} in {colour} sent to {city}?",
    "Put {quantity} {colour} {items} on the truck to {city}.",
    "My address is in {city} and I want {quantity} {colour} {items}.",
    "{quantity} {items} please, {colour}, going to {city}.",
    "The {city} branch asks for {quantity} {colour} {items}.",
    "Deliver to {city}: {items}, {colour}, {quantity} of them.",
    "Hello, I'd buy {quantity} {colour} {items} if you ship to {city}.",
    "Make it {quantity} {items} in {colour}, destination {city}.",
    "A customer in {city} ordered {quantity} {colour} {items}.",
    "Send {items} to {city}, {quantity} in {colour}.",
)
UNSEEN_PHRASINGS = (
    "Kindly dispatch {quantity} {colour} {items} to our {city} store.",
    "Someone from {city} called about {quantity} {colour} {items}.",
    "Add {quantity} {items} in {colour} to the next parcel for {city}.",
    "We are short of {items} in {city}: {quantity} {colour} ones, please.",
    "Would it be possible to bring {quantity} {colour} {items} to {city}?",
    "Good morning, {city} here, we'll take {quantity} {items} in {colour}.",
    "Reserve {quantity} {colour} {items} and post them to {city}.",
    "Next week {city} must receive {quantity} {colour} {items}.",
)


class Thing(NamedTuple):
    """What is ordered, less the quantity; never shared between training and held-out rows."""

    item: str
    colour: str
    city: str


class Row(NamedTuple):
    prompt: str
    answer: str


def make(seed: int = SEED) -> tuple[list[Row], list[Row]]:
    """Training rows and held-out rows, the same for the same seed."""
    rng = random.Random(seed)
    things = [Thing(*parts) for parts in product(PLURALS, COLOURS, CITIES)]
    new_things = [Thing(*parts) for parts in product(PLURALS, COLOURS, UNSEEN_CITIES)]
    rng.shuffle(things)
    rng.shuffle(new_things)
    train = [_row(rng, thing, PHRASINGS) for thing in things[:NUM_TRAIN]]
    familiar = [_row(rng, thing, PHRASINGS) for thing in things[NUM_TRAIN : NUM_TRAIN + NUM_FAMILIAR]]
    unseen = [_row(rng, thing, UNSEEN_PHRASINGS) for thing in new_things[:NUM_UNSEEN]]
    return train, list(_mix(familiar, unseen))


def _row(rng: random.Random, thing: Thing, phrasings: tuple[str, ...]) -> Row:
    quantity = rng.randint(2, 12) if rng.random() < 0.5 else rng.randint(2, LARGEST_QUANTITY)
    in_words = quantity - 2 < len(NUMBER_WORDS) and rng.random() < 0.5
    said = NUMBER_WORDS[quantity - 2] if in_words else str(quantity)
    phrasing = rng.choice(phrasings)
    if phrasing.startswith("{quantity}"):
        said = said.capitalize()
    prompt = phrasing.format(quantity=said, colour=thing.colour, items=PLURALS[thing.item], city=thing.city)
    meant = {"item": thing.item, "quantity": quantity, "colour": thing.colour, "city": thing.city}
    return Row(prompt, json.dumps(meant, separators=(",", ":")))


def _mix(familiar: list[Row], unseen: list[Row]) -> Iterator[Row]:
    """Three familiar rows, then two unseen: any head of the file holds both kinds in their proportion."""
    for group in range(NUM_FAMILIAR // 3):
        yield from familiar[3 * group : 3 * group + 3]
        yield from unseen[2 * group : 2 * group + 2]


def write(folder: Path) -> None:
    """Writes train.jsonl and heldout.jsonl into `folder`."""
    for name, rows in zip(("train.jsonl", "heldout.jsonl"), make(), strict=True):
        text = "".join(json.dumps({"messages": _messages(row)}) + "\n" for row in rows)
        (folder / name).write_bytes(text.encode())


def _messages(row: Row) -> list[dict[str, str]]:
    return [{"role": "user", "content": row.prompt}, {"role": "assistant", "content": row.answer}]


if __name__ == "__main__":
    write(Path(__file__).parent)
