"""A person buys credits in a real Chromium, with both providers, on a stack that the command line started."""

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Page, sync_playwright

from deploy.local.databases import APP, OWNER, drop_database
from deploy.local.infrastructure.probes import run_async
from deploy.local.ports import find_free_port
from deploy.local.services import SERVICES, SHOP, STRIPE_STANDIN, VNPAY_STANDIN
from tests.support.databases import PASSWORDS
from tests.support.infrastructure import temporary_home
from tests.support.topics import prefix_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install your system's package `chromium`"),
]
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
ALL = (*SERVICES, STRIPE_STANDIN, VNPAY_STANDIN, SHOP)


@dataclass(frozen=True, slots=True)
class Shop:
    url: str


@pytest.fixture(scope="module")
def shop(postgres_admin_url: str, kafka_bootstrap: str, request: pytest.FixtureRequest) -> Iterator[Shop]:
    databases = f"tk_{os.getpid()}_{uuid.uuid5(uuid.NAMESPACE_URL, request.node.nodeid).hex[:6]}_"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TOLLKEEPER_")}
    ports = {service: find_free_port() for service in ALL}
    with temporary_home() as folder:
        environment = kept | {
            "TOLLKEEPER_HOME": str(folder / "home"),
            "TOLLKEEPER_POSTGRES_URL": postgres_admin_url,
            "TOLLKEEPER_KAFKA_BOOTSTRAP": kafka_bootstrap,
            "TOLLKEEPER_DATABASE_PREFIX": databases,
            "TOLLKEEPER_TOPIC_PREFIX": prefix_of(request.node.nodeid),
            "TOLLKEEPER_OWNER_PASSWORD": PASSWORDS[OWNER],
            "TOLLKEEPER_APP_PASSWORD": PASSWORDS[APP],
            **{service.port_setting: str(port) for service, port in ports.items()},
        }

        def run(*words: str) -> None:
            command = [sys.executable, "-m", "deploy.cli.main", *words]
            ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150, check=False)
            assert ended.returncode == 0, ended.stdout + ended.stderr

        run("up", "--detach", "--no-demo")
        try:
            yield Shop(f"http://127.0.0.1:{ports[SHOP]}")
        finally:
            run("down")
    for service in SERVICES:
        run_async(drop_database(postgres_admin_url, f"{databases}{service.name}"))


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield browser.new_page()
        browser.close()


def order(page: Page, shop: Shop, tenant: str, provider: str, amount: str = "100000", currency: str = "VND") -> None:
    page.goto(shop.url)
    page.select_option("#region", "vn")
    page.fill("#tenant", tenant)
    page.fill("#amount", amount)
    page.fill("#currency", currency)
    page.select_option("#provider", provider)
    page.fill("#email", "an@example.com")
    page.get_by_role("button", name="Buy").click()


@pytest.mark.parametrize("provider", ["stripe", "vnpay"])
def test_a_person_pays_and_sees_the_balance_rise(page: Page, shop: Shop, provider: str) -> None:
    order(page, shop, f"person-{provider}", provider)
    page.get_by_role("button", name="Pay", exact=True).click()
    page.wait_for_selector("#state[data-state=credited]", timeout=60_000)
    assert page.get_by_role("status").inner_text() == "Credits added"
    assert page.inner_text("#balance") == "100,000 VND"
    page.goto(shop.url)
    assert f"vn/person-{provider}\tok\t100000.00 VND" in page.inner_text("table")


def test_a_declined_card_can_be_tried_again_and_a_cancelled_order_leads_back(page: Page, shop: Shop) -> None:
    order(page, shop, "unlucky", "stripe")
    page.get_by_role("button", name="Card that is declined").click()
    assert page.get_by_role("alert").inner_text() == "Your card was declined."
    page.get_by_role("button", name="Cancel").click()
    assert page.get_by_role("status").inner_text() == "Waiting for your payment"
    page.get_by_role("link", name="Back to the payment page").click()
    page.get_by_role("button", name="Pay", exact=True).click()
    page.wait_for_selector("#state[data-state=credited]", timeout=60_000)


def test_what_can_not_be_bought_is_said_on_the_page(page: Page, shop: Shop) -> None:
    order(page, shop, "unlucky", "vnpay", amount="1")
    assert "not between 5000" in page.get_by_role("alert").inner_text()
    order(page, shop, "unlucky", "stripe", amount="5", currency="EUR")
    assert "no rate from EUR to VND is published" in page.get_by_role("alert").inner_text()
