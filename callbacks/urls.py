"""The addresses that machines call."""

from django.urls import path

from callbacks import views

urlpatterns = [
    # Both spellings answer: DingTalk takes a redirect from one to the other for a failure.
    path("dingtalk/callback/", views.callback, name="callback"),
    path("dingtalk/callback", views.callback),
    path("healthz", views.healthz, name="healthz"),
    path("readyz", views.readyz, name="readyz"),
]
