//! `/mcp/tools` and `/mcp/tool/call`.

use serde_json::json;

use crate::harness::App;

#[tokio::test]
async fn a_secret_wins_over_the_callers_argument() {
    let app = App::start();
    app.register_fixture("fixture").await.ok();
    app.set_secret("ana", "fixture", "message", "ana's own").await;
    app.set_secret("ben", "fixture", "message", "ben's own").await;
    for (user, said) in [("ana", "ana's own"), ("ben", "ben's own"), ("cem", "from the caller")] {
        let answer = app.call(user, "fixture", "echo", json!({ "message": "from the caller" })).await.ok();
        assert_eq!(answer["data"], json!({ "content": said, "contentType": "text/plain", "isError": false }));
    }
}
