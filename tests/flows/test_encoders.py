from pathlib import Path

from tests.tiny_bert import build_encoder
from trimtab.flows.encoders import adopt
from trimtab.flows.watch import Silent
from trimtab.ledger.money import Price
from trimtab.ledger.prices import price_of, set_price
from trimtab.registry import encoders
from trimtab.store.home import Home


def test_an_adopted_encoder_has_a_price_and_keeps_it(tmp_path: Path) -> None:
    folder = build_encoder(tmp_path / "tiny")
    database = Home(tmp_path / "home").database()
    encoder = adopt(database, str(folder), Silent())
    with database.transaction() as connection:
        assert encoders.list(connection) == (encoder,)
        assert price_of(connection, encoder.hash) == Price(0, 0)
        set_price(connection, encoder.hash, Price(5, 0))
    assert adopt(database, str(folder), Silent()).hash == encoder.hash
    with database.read() as connection:
        assert price_of(connection, encoder.hash) == Price(5, 0)
    database.close()
